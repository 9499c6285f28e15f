"""Services: objects whose methods other contexts call by name, subject to a policy."""

from __future__ import annotations
