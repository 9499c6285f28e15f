"""Public names for listing the imports of compiled code: see mitogen.importing.scan_imports."""

from __future__ import annotations

from mitogen.importing.scan_imports import (
    all_imports as all_imports,
    codeobj_imports as codeobj_imports,
)

__all__ = [
    "all_imports",
    "codeobj_imports",
]
