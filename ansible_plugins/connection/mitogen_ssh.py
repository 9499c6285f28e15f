"""The connection plugin `ssh`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

from ansible.plugins.connection import ssh as stock

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: ssh
author: the mitogen authors
short_description: connect with ssh, over a mitogen context
description:
  - Runs tasks like P(ansible.builtin.ssh#connection), with the same options.
  - Sends modules with C(pipelining) by default.
  - C(mitogen_via) names the host through which this host is reached.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.documentation(stock, "ssh")

Connection = ours.ssh(stock)
