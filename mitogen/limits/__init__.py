"""Bounds on what peers cost and show: turns of streams, guarded calls, escaped text."""

from __future__ import annotations
