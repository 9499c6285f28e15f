"""
Ansible over contexts: connection plugins, what makes them faster, and the process that holds the
contexts of a run. See docs/ansible/ and docs/design/ansible.rst.

agent/ and broker/server.py, with all that they use, import nothing of Ansible: agent/ runs on
targets, and the broker process starts without it.
"""

from __future__ import annotations

__all__ = ()
