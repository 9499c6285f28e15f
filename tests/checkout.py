"""Path of the checkout. Tests find files of the project from here, independent of their own
folder.
"""

import pathlib

from mitogen.bootstrap import minify

__all__ = ["ROOT", "write_as_sent"]

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write_as_sent(directory: pathlib.Path) -> pathlib.Path:
    """Write the package to *directory* in the form children receive it, for Pythons that only
    children use.
    """
    for path in sorted((ROOT / "mitogen").rglob("*.py")):
        copy = directory / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(minify.minimize_source(path.read_text(encoding="utf-8"), True), "utf-8")
    return directory
