"""
Ansible over contexts: connection plugins, accelerators of Ansible, and the process that holds the
contexts of a run. See docs/ansible/ and docs/design/ansible.rst.

agent/ and broker/server.py, and the modules they use, import nothing of Ansible: agent/ runs on
targets, and the broker process starts without it.
"""

from __future__ import annotations

__all__ = ()
