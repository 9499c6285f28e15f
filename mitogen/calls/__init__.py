"""Calls of functions in other contexts: the calling side and the executing side."""

from __future__ import annotations
