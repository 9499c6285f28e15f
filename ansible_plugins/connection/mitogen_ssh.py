"""`ssh` over a context: see mitogen/ansible/kinds.py."""

from __future__ import annotations

import os
import sys

from ansible.plugins.connection import ssh as stock

#: What ansible-doc shows, which reads it without running anything.
DOCUMENTATION = """
name: ssh
author: the mitogen authors
short_description: connect by ssh, over a mitogen context
description:
  - Runs tasks as P(ansible.builtin.ssh#connection) does, by the options of that one.
  - Modules are sent by C(pipelining) unless told otherwise.
  - C(mitogen_via) names the host that this one is reached through.
"""

try:
    import mitogen.ansible.kinds as ours
except ImportError:
    # Loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.kinds as ours

DOCUMENTATION += ours.documentation(stock, "ssh")

Connection = ours.ssh(stock)
