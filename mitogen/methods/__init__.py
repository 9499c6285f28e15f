"""Code that connection methods share, and the registry of their names."""

from __future__ import annotations
