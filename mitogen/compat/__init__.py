"""Names that programs written for mitogen 0.3 use, and nothing else."""

from __future__ import annotations
