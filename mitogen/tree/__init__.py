"""A context that has children: ids, routes, connecting."""

from __future__ import annotations
