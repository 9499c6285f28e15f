"""
core.py as it is sent: minified, with shorter names for what no other module names.

It is made once per version of core.py and kept beside the compiled modules in `__pycache__`, as
Python does with those, and made anew wherever that cannot be written.

Rules
    1. Line numbers stay: a child's tracebacks are read beside core.py.
    2. Renamed are local variables, `self`, and names with a leading underscore that occur in no
       other file of the package. Parameters and public names stay.

Controlling machine only. No threads.
"""

from __future__ import annotations

import ast
import os
import re
import string
import sys
from collections import Counter
from collections.abc import Iterator

from mitogen import minify

__all__ = ["core_source", "shrink"]

_HERE = os.path.dirname(os.path.abspath(__file__))
#: Private names that programs are known to use in children.
_KEPT = frozenset(["_stream_by_id", "_async_route"])
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What `self` becomes, and all that is left.
_SELF = "S"
_SHORT = (string.ascii_lowercase + string.ascii_uppercase).replace(_SELF, "")

Function = (ast.FunctionDef, ast.Lambda)


def _outer_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the functions that are in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from _outer_functions(child)


def _fixed_names(function: ast.AST) -> set[str]:
    """Return the names bound in a function by other means than assignment."""
    fixed: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            fixed.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            fixed.add(node.name)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            fixed.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            fixed.update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            fixed.update((a.asname or a.name).partition(".")[0] for a in node.names)
    return fixed


def _local_names(function: ast.AST, taken: set[str]) -> dict[str, str]:
    """Return short names for a function's local variables, the most used one first."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    uses = Counter(node.id for node in names)
    fixed = _fixed_names(function)
    assigned = {node.id for node in names if not isinstance(node.ctx, ast.Load)} - fixed
    free = [c for c in _SHORT if c not in uses and c not in fixed and c not in taken]
    wanted = sorted((n for n in assigned if len(n) > 1), key=lambda n: (-uses[n], n))
    mapping = dict(zip(wanted, free))
    if "self" in fixed:
        mapping["self"] = _SELF
    return mapping


def _rename_locals(source: str) -> str:
    if _SELF in _IDENTIFIER.findall(source):
        raise ValueError(f"core.py must not use the name {_SELF}")
    tree = ast.parse(source)
    taken = _module_names(tree)
    edits = []
    for function in _outer_functions(tree):
        mapping = _local_names(function, taken)
        for node in ast.walk(function):
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(node, (ast.Name, ast.arg)) and name in mapping:
                edits.append((node.lineno, node.col_offset, name, mapping[name]))
    lines = source.split("\n")
    for line, column, old, new in sorted(edits, reverse=True):
        text = lines[line - 1].encode()
        lines[line - 1] = (text[:column] + new.encode() + text[column + len(old) :]).decode()
    return "\n".join(lines)


def _module_names(tree: ast.Module) -> set[str]:
    return {
        node.id
        for statement in tree.body
        if isinstance(statement, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    }


def _defined_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module's own statements bind, as variables or as attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _private_names(source: str, others: set[str]) -> dict[str, str]:
    """Return short names for the private names that `source` defines and no other file has."""
    uses = Counter(_IDENTIFIER.findall(source))
    private = {
        name
        for name in _defined_names(ast.parse(source))
        if name[0] == "_" and name[:2] != "__" and len(name) > 3
    }
    short = (f"_{c}{d}" for c in ["", *_SHORT] for d in _SHORT)
    free = (name for name in short if name not in uses and name not in others)
    ordered = sorted(private - others - _KEPT, key=lambda n: (-uses[n], n))
    return dict(zip(ordered, free))


def _names_in_other_files() -> set[str]:
    names: set[str] = set()
    for directory, _, files in os.walk(_HERE):
        for name in files:
            if name.endswith(".py") and name not in ("core.py", "shrink.py"):
                with open(os.path.join(directory, name), encoding="utf-8") as fp:
                    names.update(_IDENTIFIER.findall(fp.read()))
    return names


def shrink(source: str, others: set[str]) -> str:
    """
    Return `source` minified and with shorter private and local names.

    :param str source: core.py's
    :param set others: identifiers in the package's other files: these stay
    """
    renamed = _rename_locals(source)
    return minify.minimize_source(renamed, rename=_private_names(source, others))


def core_source() -> bytes:
    """Return core.py as children get it."""
    path = os.path.join(_HERE, "core.py")
    stamp = _stamp()
    cache = os.path.join(_HERE, "__pycache__", "core.shrunk")
    try:
        with open(cache, "rb") as fp:
            head, _, body = fp.read().partition(b"\n")
        if head == stamp:
            return body
    except OSError:
        pass
    with open(path, encoding="utf-8") as fp:
        body = shrink(fp.read(), _names_in_other_files()).encode()
    if not sys.dont_write_bytecode:
        _save(cache, stamp + b"\n" + body)
    return body


def _stamp() -> bytes:
    """Return what changes when a file of the package does."""
    stats = []
    for entry in sorted(os.scandir(_HERE), key=lambda e: e.name):
        if entry.name.endswith(".py"):
            info = entry.stat()
            stats.append((entry.name, info.st_mtime_ns, info.st_size))
    return repr(stats).encode()


def _save(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "wb") as fp:
            fp.write(data)
        os.replace(temporary, path)
    except OSError:
        pass
