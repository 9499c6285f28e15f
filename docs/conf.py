"""Sphinx configuration: `sphinx-build docs OUT` from a checkout with sphinx installed."""

import os
import sys

sys.path.insert(0, os.path.abspath(".."))

project = "mitogen"
author = "The mitogen authors"
copyright = "2026, The mitogen authors"
extensions = ["sphinx.ext.autodoc"]
html_theme = "alabaster"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]

# Sphinx finds several classes for a bare "Context"; the documented module's is meant.
suppress_warnings = ["ref.python"]
