"""Programs in contexts: their start, signals and end, and the pipes that carry their data."""

from __future__ import annotations
