"""The connection plugin `kubectl`, over a mitogen context: see plugins/connection_types.py."""

from __future__ import annotations

import os
import sys

#: Documentation for ansible-doc, which reads this text without running the file.
DOCUMENTATION = """
name: kubectl
author: the mitogen authors
short_description: run in a Kubernetes pod, over a mitogen context
description:
  - Runs tasks in a Kubernetes pod.
  - Its options are those of P(kubernetes.core.kubectl#connection), which is not required.
  - C(mitogen_via) names the host through which this host is reached.
"""

try:
    import mitogen.ansible.plugins.connection_types as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.connection_types as ours

DOCUMENTATION += ours.own_options.documentation("kubectl")

Connection = ours.tool("kubectl")
