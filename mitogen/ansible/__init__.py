"""
Ansible over contexts: connection plugins, what makes them faster, and the process that holds the
contexts of a run. See docs/ansible/ and docs/design/ansible.rst.

Nothing of Ansible is imported by what runs in a target (target.py, zygote.py) or in the broker
process (broker.py and what it uses).
"""

from __future__ import annotations

__all__ = ()
