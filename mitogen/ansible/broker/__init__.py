"""The process that holds the contexts of one run of Ansible, and the way to it."""

from __future__ import annotations
