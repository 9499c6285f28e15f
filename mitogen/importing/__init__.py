"""Module sources on the controlling machine: find them, order them, send them to contexts."""

from __future__ import annotations
