"""The connection plugin `local`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

from ansible.plugins.connection import local as stock

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: local
author: the mitogen authors
short_description: run on the controller, in a mitogen context
description:
  - Runs tasks like P(ansible.builtin.local#connection), with the same options.
  - Sends modules with C(pipelining) by default.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.documentation(stock, "local")

Connection = ours.local(stock)
