"""Code that Ansible loads: connection plugins, strategies, the callback, and their parts."""

from __future__ import annotations
