"""What makes a run faster that uses contexts: see mitogen/ansible/callback.py."""

from __future__ import annotations

import os
import sys

DOCUMENTATION = """
name: mitogen
type: aggregate
short_description: prepare the main process for connections over mitogen contexts
description:
  - Imports what every task needs before workers are forked, and has connections go over contexts.
  - It prints nothing.
requirements:
  - enabling by C(callbacks_enabled)
options:
  redirect:
    description:
      - Connection plugins in whose place ours are used, however a host or task names them.
      - Besides C(ssh) and C(local), C(docker) say, which is C(community.docker.docker) too.
    type: list
    elements: str
    default: [ssh, local]
    ini: [{section: mitogen, key: redirect}]
    env: [{name: MITOGEN_REDIRECT}]
"""

try:
    import mitogen.ansible.callback as ours
except ImportError:
    # Loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.callback as ours

CallbackModule = ours.CallbackModule
