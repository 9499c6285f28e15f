"""Files and directory trees between contexts: put() and get()."""

from __future__ import annotations
