"""Calling functions in other contexts: the caller's half, and the half that runs them."""

from __future__ import annotations
