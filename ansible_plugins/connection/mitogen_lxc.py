"""The connection plugin `lxc`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: lxc
author: the mitogen authors
short_description: run in an LXC container, over a mitogen context
description:
  - Runs tasks in an LXC container.
  - Its options are those of P(community.general.lxc#connection), which is not required.
  - C(mitogen_via) names the host through which this host is reached.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.own_options.documentation("lxc")

Connection = ours.tool("lxc")
