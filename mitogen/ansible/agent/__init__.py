"""Code that runs on a target for Ansible: warm interpreters and the scripts they run."""

from __future__ import annotations
