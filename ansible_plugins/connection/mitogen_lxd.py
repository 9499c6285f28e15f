"""`lxd` over a context: see mitogen/ansible/kinds.py."""

from __future__ import annotations

import os
import sys

#: What ansible-doc shows, which reads it without running anything.
DOCUMENTATION = """
name: lxd
author: the mitogen authors
short_description: run in an instance of LXD, over a mitogen context
description:
  - Runs tasks in an instance of LXD.
  - Its options are those of P(community.general.lxd#connection), which need not be installed.
  - C(mitogen_via) names the host that this one is reached through.
"""

try:
    import mitogen.ansible.kinds as ours
except ImportError:
    # Loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.kinds as ours

DOCUMENTATION += ours.options.documentation("lxd")

Connection = ours.tool("lxd")
