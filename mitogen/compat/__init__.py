"""Compatibility names for programs written for mitogen 0.3, and nothing else."""

from __future__ import annotations
