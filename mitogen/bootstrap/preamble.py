"""
The core as it is sent: the files of mitogen/core/ that PREAMBLE names, minified, without
annotations and imports of each other, with shorter private names.

It is made once per version of these files and kept beside the compiled modules in `__pycache__`, as
Python does with those. An installed package brings it along (setup.py), since the user who runs
that may not write there. Where there is neither, each process makes it, in a tenth of a second.

Rules
    1. Each statement keeps its line in the copy that is made here. Blank lines are not sent, so the
       master looks up the lines of a child's tracebacks: see line_number().
    2. In a child the files share one namespace (handshake.py). So an import is left out where an
       earlier file has bound the name already. tests/unit/bootstrap/test_preamble.py proves that
       both ways give the same objects.
    3. Renamed are local variables, `self`, parameters of private functions that no call names, and
       names that occur in no other file of the package and begin with an underscore or are in
       renames.INTERNAL. Public names and the parameters of public functions stay.

Kept files are run by this process and by all its children. So they are used only if their owner is
this account, root, or the owner of the core's files, and if those who may write them may write the
core's files, too.

Controlling machine only. No threads.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterator

from mitogen import identity
from mitogen.core import PREAMBLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ast
    from typing import Any

__all__ = ["SHIPPED", "core_source", "make", "shrink", "stamp_of_contents"]

#: Name of the file that an installed package brings along, and of the one in `__pycache__`.
SHIPPED = "core.shrunk"

_HERE = os.path.dirname(os.path.abspath(identity.__file__))
#: Loader of the package; zipimport's has the path of an archive.
_LOADER: Any = getattr(identity.__spec__, "loader", None)
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK_LINES = re.compile(rb"\n[\n ]*\n")
#: Files that name private names of those without using them in a child.
_ABOUT = ("bootstrap/preamble.py", "bootstrap/renames.py", "core/__init__.py")


class _Source:
    """
    A file of the package with code, in a directory or in a zip archive.

    :param str path: relative to the package
    :param int size: in bytes
    :param version: changes when the file is written
    """

    def __init__(self, path: str, size: int, version: Any) -> None:
        self.path = path
        self.size = size
        self.version = version


def _sources() -> list[_Source]:
    """Return the package's files with code, in no order."""
    archive = getattr(_LOADER, "archive", None)
    return list(_sources_in_archive(archive) if archive else _sources_in(_HERE, ""))


def _sources_in(directory: str, prefix: str) -> Iterator[_Source]:
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(".py"):
                info = entry.stat()
                yield _Source(prefix + name, info.st_size, info.st_mtime_ns)
            elif name != "__pycache__" and "." not in name and entry.is_dir():
                yield from _sources_in(entry.path, f"{prefix}{name}/")


def _sources_in_archive(archive: str) -> Iterator[_Source]:
    import zipfile

    top = os.path.relpath(_HERE, os.path.abspath(archive)) + "/"
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            if info.filename.startswith(top) and info.filename.endswith(".py"):
                yield _Source(info.filename[len(top) :], info.file_size, info.date_time)


def _read_bytes(path: str) -> bytes:
    """
    Return the contents of a file of the package.

    :raises OSError: it does not exist
    """
    if hasattr(_LOADER, "archive"):
        # zipimport finds its files by the archive's path as it stands in sys.path.
        directory = os.path.dirname(identity.__file__)
        data: bytes = _LOADER.get_data(os.path.join(directory, path))
        return data
    with open(os.path.join(_HERE, path), "rb") as fp:
        return fp.read()


def _names_in_other_files() -> set[str]:
    names: set[str] = set()
    sent = [f"core/{name}.py" for name in PREAMBLE]
    for source in _sources():
        if source.path not in (*sent, *_ABOUT):
            names.update(IDENTIFIER.findall(_read_bytes(source.path).decode()))
    return names


def _read(name: str) -> str:
    return _read_bytes(f"core/{name}.py").decode()


def _bindings(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
    """Return {name bound by an import: (module, name there)}."""
    import ast  # 2 ms: only where the preamble is made

    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return {alias.asname or alias.name: (node.module or "", alias.name) for alias in node.names}


def without_known_imports(source: str, known: dict[str, tuple[str, str]]) -> str:
    """
    Return `source` without imports of names that an earlier file has bound; its lines stay.

    :param str source: a file of the preamble
    :param dict known: {name: where it comes from}, of the files before it; this file's are added
    """
    import ast

    lines = source.split("\n")
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.Import, ast.ImportFrom)) or not node.names[0].name:
            continue
        bound = _bindings(node)
        new = {
            name: origin
            for name, origin in bound.items()
            if not origin[0].startswith("mitogen.core.") and known.get(name) != origin
        }
        if len(new) < len(bound):
            first = node.lineno - 1
            lines[first : node.end_lineno] = [""] * ((node.end_lineno or 0) - first)
            lines[first] = "; ".join(_statement(name, origin) for name, origin in new.items())
        known.update(new)
    return "\n".join(lines)


def _statement(name: str, origin: tuple[str, str]) -> str:
    module, attribute = origin
    renamed = "" if name in origin else f" as {name}"
    return (f"from {module} import {attribute}" if attribute else f"import {module}") + renamed


def shrink(sources: list[str], others: set[str]) -> list[str]:
    """
    Return the files of the preamble minified, with shorter private and local names.

    :param list sources: the files, in the order of PREAMBLE
    :param set others: identifiers in the package's other files: these stay
    """
    # Imported here, as they cost more than all else where the result is at hand.
    from mitogen.bootstrap import minify, renames

    known: dict[str, tuple[str, str]] = {}
    sources = [without_known_imports(source, known) for source in sources]
    taken = renames.module_names(sources)
    keywords = renames.keyword_names(sources)
    minified = [minify.minimize_source(source, True) for source in sources]
    names = renames.private_names(minified, others)
    return [
        minify.minimize_source(renames.rename_locals(source, taken, keywords), True, names)
        for source in sources
    ]


def core_source() -> bytes:
    """Return the core as children get it, without blank lines: see handshake.preamble()."""
    return _BLANK_LINES.sub(b"\n", aligned_source())


def line_number(name: str, sent: int) -> int:
    """
    Return the line in a file of the preamble that became a line of its copy in children.

    :param str name: name of the file, as in PREAMBLE
    :param int sent: number of the copy's line, from 1
    """
    kept = _kept_lines()[name]
    return kept[sent - 1] if 0 < sent <= len(kept) else sent


@functools.lru_cache(None)
def _kept_lines() -> dict[str, list[int]]:
    """Return, by file of the preamble, the numbers of the lines that are sent."""
    names, *files = aligned_source().decode().split("\0")
    # Blank lines at the beginning become one line.
    return {
        name: [n for n, line in enumerate(text.split("\n"), 1) if n == 1 or line.strip()]
        for name, text in zip(names.split(), files)
    }


def aligned_source() -> bytes:
    """Return the core as children get it, but with the line numbers of its files."""
    cache = os.path.join(_HERE, "__pycache__", SHIPPED)
    found = _load(cache, _stamp()) or _shipped()
    if found is None:
        found = make()
        if not sys.dont_write_bytecode:
            _save(cache, _stamp() + b"\n" + found)
    return found


def _shipped() -> bytes | None:
    """Return the contents of the file that an installed package brings along, if it is current."""
    if os.path.isdir(_HERE):
        return _load(os.path.join(_HERE, SHIPPED), stamp_of_contents())
    try:
        head, _, body = _read_bytes(SHIPPED).partition(b"\n")
    except OSError:
        return None
    return body if head == stamp_of_contents() else None


def make() -> bytes:
    """Return aligned_source(), made anew."""
    files = shrink([_read(name) for name in PREAMBLE], _names_in_other_files())
    return "\0".join([" ".join(PREAMBLE), *files]).encode()


def _load(path: str, stamp: bytes) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as fp:
            if not _is_trusted(os.fstat(fd)):
                return None
            head, _, body = fp.read().partition(b"\n")
    except OSError:
        return None
    return body if head == stamp else None


def _source_stat() -> os.stat_result:
    return os.stat(os.path.join(_HERE, "core", f"{PREAMBLE[0]}.py"))


def _is_trusted(found: os.stat_result) -> bool:
    source = _source_stat()
    writers = found.st_mode & ~source.st_mode & 0o022
    group = not found.st_mode & 0o020 or found.st_gid == source.st_gid
    owned = found.st_uid in (0, os.geteuid(), source.st_uid)
    return stat.S_ISREG(found.st_mode) and owned and group and not writers


def stamp_of_contents() -> bytes:
    """Return what is the same wherever the package's files are copied to."""
    sizes = sorted((source.path, source.size) for source in _sources())
    return repr((sizes, zlib.crc32("".join(map(_read, PREAMBLE)).encode()))).encode()


def _stamp() -> bytes:
    """Return what changes when a file of the package does."""
    return repr(sorted((each.path, each.version, each.size) for each in _sources())).encode()


def _save(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        # As Python does with compiled modules: readable by those who may read the source.
        fd = os.open(temporary, flags, _source_stat().st_mode & 0o644)
    except OSError:
        return
    try:
        with open(fd, "wb") as fp:
            fp.write(data)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
