"""`python -m mitogen.ansible`: turn mitogen on and off in an ansible.cfg, and show its state."""

from __future__ import annotations
