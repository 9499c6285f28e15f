"""
Shorter names for what no other module names: local variables, `self`, private names. Pure.

Controlling machine only. No threads.
"""

from __future__ import annotations

import ast
import re
from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["private_names", "rename_locals"]

#: Private names that programs are known to use in children.
_KEPT = frozenset(["_stream_by_id", "_async_route"])
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What `self` becomes, and all that is left: letters that are frequent in source have the shortest
#: codes once it is compressed.
_SELF = "S"
_LETTERS = "etaoinsrhldcumfpgwybvkxjqz"
_SHORT = (_LETTERS + _LETTERS.upper()).replace(_SELF, "")

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


def rename_locals(source: str) -> str:
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


def private_names(source: str, others: set[str]) -> dict[str, str]:
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
