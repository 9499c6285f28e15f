"""The callback plugin that enables mitogen; see mitogen/ansible/plugins/callback.py."""

from __future__ import annotations

import os
import sys

DOCUMENTATION = """
name: mitogen
type: aggregate
short_description: prepare the main process for connections over mitogen contexts
description:
  - Imports common modules before workers are forked, and redirects connections to contexts.
  - Prints nothing.
requirements:
  - enabling by C(callbacks_enabled)
options:
  redirect:
    description:
      - Connection plugins to replace with those of mitogen, by any name that a host or task uses.
      - Other names can be added, such as C(docker), which includes C(community.docker.docker).
    type: list
    elements: str
    default: [ssh, local]
    ini: [{section: mitogen, key: redirect}]
    env: [{name: MITOGEN_REDIRECT}]
"""

try:
    import mitogen.ansible.plugins.callback as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.callback as ours

CallbackModule = ours.CallbackModule
