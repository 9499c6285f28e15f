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

__all__ = ["INTERNAL", "keyword_names", "module_names", "private_names", "rename_locals"]

#: Private names that programs are known to use in children.
_KEPT = frozenset(["_stream_by_id", "_async_route"])
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What `self` becomes, and all that is left: letters that are frequent in source have the shortest
#: codes once it is compressed.
_SELF = "S"
_LETTERS = "etaoinsrhldcumfpgwybvkxjqz"
_SHORT = (_LETTERS + _LETTERS.upper()).replace(_SELF, "")

#: Names of the core that programs do not use: no program passes arguments of these functions by
#: name, and a name that only the preamble uses is shortened there. None is in a page of
#: docs/reference, as a test sees to.
INTERNAL = frozenset(
    """
    LOG_WINDOW MAX_COLLISIONS MESSAGE_COST MIN_ARRAY Meter Partial RouteTable
    admits after asleep bounce check_hashes component consume consumed context_lost credited drain
    drop end_flow end_long end_process expect feed fetch find forward framer give head header is_own
    is_windowed load names_are_lazy new_handle on_call on_frame on_stream_lost pop push read_fd
    receive remove request send_credit source stopping take watch when_drained window_size withdraw
    """.split()
)

Function = (ast.FunctionDef, ast.Lambda)


def _outer_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the functions that are in no other function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from _outer_functions(child)


def _is_private(function: ast.AST) -> bool:
    name = getattr(function, "name", "_lambda")
    return bool(name[0] == "_" and name[:2] != "__" or name in INTERNAL)


def _parameters(function: ast.AST) -> list[str]:
    """Return the names of a function's parameters, without those of functions in it."""
    arguments: ast.arguments = function.args  # type: ignore[attr-defined]
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [arg.arg for arg in [*found, arguments.vararg, arguments.kwarg] if arg]


def _fixed_names(function: ast.AST, keywords: set[str]) -> set[str]:
    """
    Return the names bound in a function by other means than assignment.

    :param set keywords: names by which arguments are passed: parameters of private functions are
        free unless they are among these
    """
    fixed: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, Function):
            private = _is_private(node) or node is not function
            names = _parameters(node)
            fixed.update(n for n in names if not private or n in keywords or n == "self")
        if isinstance(node, ast.ExceptHandler) and node.name:
            fixed.add(node.name)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            fixed.add(node.name)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            fixed.update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            fixed.update((a.asname or a.name).partition(".")[0] for a in node.names)
    return fixed


def _local_names(function: ast.AST, taken: set[str], keywords: set[str]) -> dict[str, str]:
    """Return short names for a function's local variables, the most used one first."""
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    parameters = [node.arg for node in ast.walk(function) if isinstance(node, ast.arg)]
    uses = Counter([node.id for node in names] + parameters)
    fixed = _fixed_names(function, keywords)
    assigned = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    assigned = assigned.union(parameters) - fixed
    free = [c for c in _SHORT if c not in uses and c not in fixed and c not in taken]
    wanted = sorted((n for n in assigned if len(n) > 1), key=lambda n: (-uses[n], n))
    mapping = dict(zip(wanted, free))
    if "self" in fixed:
        mapping["self"] = _SELF
    return mapping


def rename_locals(source: str, taken: set[str], keywords: set[str]) -> str:
    """
    Return `source` with short names for local variables and `self`; its lines stay.

    :param set taken: names that a local variable would hide: see module_names()
    :param set keywords: names by which arguments are passed: see keyword_names()
    :raises ValueError: it uses the name that `self` becomes
    """
    if _SELF in _IDENTIFIER.findall(source):
        raise ValueError(f"the preamble must not use the name {_SELF}")
    tree = ast.parse(source)
    edits = []
    for function in _outer_functions(tree):
        mapping = _local_names(function, taken, keywords)
        for node in ast.walk(function):
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(node, (ast.Name, ast.arg)) and name in mapping:
                edits.append((node.lineno, node.col_offset, name, mapping[name]))
    lines = source.split("\n")
    for line, column, old, new in sorted(edits, reverse=True):
        text = lines[line - 1].encode()
        lines[line - 1] = (text[:column] + new.encode() + text[column + len(old) :]).decode()
    return "\n".join(lines)


def keyword_names(sources: list[str]) -> set[str]:
    """Return the names by which the preamble's files pass arguments."""
    return {
        node.arg
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.keyword) and node.arg
    }


def module_names(sources: list[str]) -> set[str]:
    """Return the names that the files of the preamble assign at their top level."""
    return {
        node.id
        for source in sources
        for statement in ast.parse(source).body
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


def private_names(sources: list[str], others: set[str]) -> dict[str, str]:
    """
    Return short names for the private and INTERNAL names that the preamble's files define.

    :param list sources: these files, minified
    :param set others: identifiers of the package's other files: these stay
    """
    uses = Counter(name for source in sources for name in _IDENTIFIER.findall(source))
    private = {
        name
        for source in sources
        for name in _defined_names(ast.parse(source))
        if (name[0] == "_" and name[:2] != "__" or name in INTERNAL) and len(name) > 3
    }
    short = (f"_{c}{d}" for c in ["", *_SHORT] for d in _SHORT)
    free = (name for name in short if name not in uses and name not in others)
    ordered = sorted(private - others - _KEPT, key=lambda n: (-uses[n], n))
    return dict(zip(ordered, free))
