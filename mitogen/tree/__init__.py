"""Contexts with children: ids, routes and connections."""

from __future__ import annotations
