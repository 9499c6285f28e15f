"""
core.py as it is sent: minified, without annotations, with shorter names for what no other module
names.

It is made once per version of core.py and kept beside the compiled modules in `__pycache__`, as
Python does with those. An installed package brings it along (setup.py), since who runs that may not
write there. Where there is neither, each process makes it, in a tenth of a second.

Rules
    1. Line numbers stay: a child's tracebacks are read beside core.py.
    2. Renamed are local variables, `self`, and names with a leading underscore that occur in no
       other file of the package. Parameters and public names stay.

Controlling machine only. No threads.
"""

from __future__ import annotations

import os
import re
import sys
import zlib
from collections.abc import Iterator

import mitogen

__all__ = ["SHIPPED", "core_source", "make", "shrink", "stamp_of_contents"]

#: Name of the file that an installed package brings along, and of the one in `__pycache__`.
SHIPPED = "core.shrunk"

_HERE = os.path.dirname(os.path.abspath(mitogen.__file__))
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _sources(directory: str = "", prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (path relative to the package, entry) of each of its files with code, in no order."""
    with os.scandir(directory or _HERE) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".py"):
                yield prefix + name, entry
            elif name != "__pycache__" and "." not in name and entry.is_dir():
                yield from _sources(entry.path, f"{prefix}{name}/")


def _names_in_other_files() -> set[str]:
    names: set[str] = set()
    for path, entry in _sources():
        if path not in ("core.py", "shrink.py", "renames.py"):
            with open(entry.path, encoding="utf-8") as fp:
                names.update(IDENTIFIER.findall(fp.read()))
    return names


def shrink(source: str, others: set[str]) -> str:
    """
    Return `source` minified and with shorter private and local names.

    :param str source: core.py's
    :param set others: identifiers in the package's other files: these stay
    """
    # Imported here, as they cost more than all else where the result is at hand.
    from mitogen.bootstrap import minify, renames

    renamed = renames.rename_locals(source)
    names = renames.private_names(minify.minimize_source(source, True), others)
    return minify.minimize_source(renamed, True, names)


def core_source() -> bytes:
    """Return core.py as children get it."""
    cache = os.path.join(_HERE, "__pycache__", SHIPPED)
    found = _load(cache, _stamp()) or _load(os.path.join(_HERE, SHIPPED), stamp_of_contents())
    if found is None:
        found = make()
        if not sys.dont_write_bytecode:
            _save(cache, _stamp() + b"\n" + found)
    return found


def make() -> bytes:
    """Return core.py as children get it, made anew."""
    with open(os.path.join(_HERE, "core.py"), encoding="utf-8") as fp:
        return shrink(fp.read(), _names_in_other_files()).encode()


def _load(path: str, stamp: bytes) -> bytes | None:
    try:
        with open(path, "rb") as fp:
            head, _, body = fp.read().partition(b"\n")
    except OSError:
        return None
    return body if head == stamp else None


def stamp_of_contents() -> bytes:
    """Return what is the same wherever the package's files are copied to."""
    sizes = sorted((path, entry.stat().st_size) for path, entry in _sources())
    with open(os.path.join(_HERE, "core.py"), "rb") as fp:
        return repr((sizes, zlib.crc32(fp.read()))).encode()


def _stamp() -> bytes:
    """Return what changes when a file of the package does."""
    stats = [(path, entry.stat()) for path, entry in _sources()]
    return repr(sorted((path, info.st_mtime_ns, info.st_size) for path, info in stats)).encode()


def _save(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as fp:
            fp.write(data)
        os.replace(temporary, path)
    except OSError:
        pass
