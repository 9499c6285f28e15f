"""`su` over a context: see mitogen/ansible/kinds.py."""

from __future__ import annotations

import os
import sys

#: What ansible-doc shows, which reads it without running anything.
DOCUMENTATION = """
name: su
author: the mitogen authors
short_description: run in an account of this host, by su, over a mitogen context
description:
  - Runs tasks in an account of this host, by su.
  - C(mitogen_via) names the host that this one is reached through.
"""

try:
    import mitogen.ansible.kinds as ours
except ImportError:
    # Loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.kinds as ours

DOCUMENTATION += ours.options.documentation("su")

Connection = ours.account("su")
