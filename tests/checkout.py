"""Where the checkout is: tests find its files from here, in whatever folder they are themselves."""

import pathlib

from mitogen.bootstrap import minify

__all__ = ["ROOT", "write_as_sent"]

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write_as_sent(directory: pathlib.Path) -> pathlib.Path:
    """Write the package below *directory* as children get it, for Pythons that only these have."""
    for path in sorted((ROOT / "mitogen").rglob("*.py")):
        copy = directory / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(minify.minimize_source(path.read_text(encoding="utf-8"), True), "utf-8")
    return directory
