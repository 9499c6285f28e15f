"""The connection plugin `doas`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: doas
author: the mitogen authors
short_description: run in an account of this host with doas, over a mitogen context
description:
  - Runs tasks in an account of this host, using doas.
  - C(mitogen_via) names the host through which this host is reached.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.own_options.documentation("doas")

Connection = ours.account("doas")
