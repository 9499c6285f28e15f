"""The strategy `free`, over mitogen contexts; see mitogen/ansible/plugins/strategy.py."""

from __future__ import annotations

import os
import sys

from ansible.plugins.strategy import free as stock

try:
    import mitogen.ansible.plugins.strategy as ours
except ImportError:
    # This file was loaded from a checkout by its path.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    import mitogen.ansible.plugins.strategy as ours

DOCUMENTATION = """
name: mitogen_free
short_description: the strategy free, with connections over mitogen contexts
description:
  - Runs plays like the strategy P(ansible.builtin.free#strategy).
  - C(callbacks_enabled = mitogen.ansible.mitogen) does the same for any strategy.
author: the mitogen authors
"""

StrategyModule = ours.strategy(stock, "free")
