"""`lxd` over a context: see mitogen/ansible/kinds.py."""

from __future__ import annotations

import os
import sys

try:
    import mitogen.ansible.kinds as ours
except ImportError:
    # Loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.kinds as ours

DOCUMENTATION = ours.options.documentation("lxd")

Connection = ours.tool("lxd")
