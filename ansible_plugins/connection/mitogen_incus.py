"""The connection plugin `incus`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: incus
author: the mitogen authors
short_description: run in an Incus instance, over a mitogen context
description:
  - Runs tasks in an Incus instance.
  - Its options are those of P(community.general.incus#connection), which is not required.
  - C(mitogen_via) names the host through which this host is reached.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.own_options.documentation("incus")

Connection = ours.tool("incus")
