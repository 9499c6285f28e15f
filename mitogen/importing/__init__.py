"""Serving module sources from the controlling machine: find them, order them, send them."""

from __future__ import annotations
