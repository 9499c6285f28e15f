"""List the modules that compiled code imports.

One job: find IMPORT_NAME in the bytecode of CPython 3.9 to 3.14 and say what it was given. Nothing
is executed, and nothing but :mod:`opcode` is needed (``dis`` costs 8 ms to import).

What is below ``if TYPE_CHECKING:`` or ``if MYPY:`` is passed over: it is never run.

What it does not do: see calls of ``__import__`` or ``importlib.import_module``, or tell whether any
other branch is ever taken.

Threads: pure functions without state, callable from any thread. Controlling machine only.
"""

from __future__ import annotations

import opcode
import sys
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["all_imports", "codeobj_imports"]

_IMPORT_NAME = opcode.opmap["IMPORT_NAME"]
_LOAD_CONST = opcode.opmap["LOAD_CONST"]
_LOAD_SMALL_INT = opcode.opmap.get("LOAD_SMALL_INT")  # 3.14 and later; its argument is the number.
_EXTENDED_ARG = opcode.opmap["EXTENDED_ARG"]
# A variable, as type checkers look at one branch only where it is the real thing.
_VERSION: tuple[int, ...] = sys.version_info[:2]
_GUARDS = frozenset(["MYPY", "TYPE_CHECKING"])
#: What loads a name, with what to shift its argument by for the name's number.
_LOADS = {
    opcode.opmap["LOAD_NAME"]: 0,
    opcode.opmap["LOAD_GLOBAL"]: int(_VERSION >= (3, 11)),
    opcode.opmap["LOAD_ATTR"]: int(_VERSION >= (3, 12)),
}
#: What may stand between such a load and the jump: a cache, and the making of a bool.
_BETWEEN = {0, opcode.opmap.get("TO_BOOL")}
_JUMP = opcode.opmap.get("POP_JUMP_FORWARD_IF_FALSE") or opcode.opmap["POP_JUMP_IF_FALSE"]
_CO_OPTIMIZED = 0x1  # Set for functions, not for the bodies of modules and classes.


def codeobj_imports(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield what *co* itself imports, in order of the bytecode, without the code nested in it.

    :param co: A code object of the running Python.
    :returns: Triples *(level, modname, names)*: the number of leading dots; the module's name as
        written, ``""`` for ``from . import x``; the names after ``from ... import``, ``("*",)`` for
        a star, ``()`` for a plain ``import``.
    """
    code = co.co_code
    before: tuple[object, object] = (None, None)  # What the last two instructions loaded.
    extended = skipped_to = 0
    guarded = False  # The last instruction loaded one of _GUARDS.
    watching = not _GUARDS.isdisjoint(co.co_names)
    for number, (op, arg) in enumerate(zip(code[::2], code[1::2])):
        if number < skipped_to:
            continue
        arg |= extended
        if op == _EXTENDED_ARG:
            extended = arg << 8
            continue
        extended = 0
        if op == _LOAD_CONST:
            before = (before[1], co.co_consts[arg])
        elif op == _LOAD_SMALL_INT:
            before = (before[1], arg)
        elif op == _IMPORT_NAME:
            level, names = before
            if isinstance(level, int):
                yield level, co.co_names[arg], names if isinstance(names, tuple) else ()
        elif watching and op not in _BETWEEN:
            if guarded and op == _JUMP:
                skipped_to = _jump_target(number, arg)
            guarded = op in _LOADS and co.co_names[arg >> _LOADS[op]] in _GUARDS


def _jump_target(number: int, arg: int) -> int:
    """Return the number of the instruction that _JUMP, the one of that *number*, goes to."""
    if _VERSION >= (3, 11):
        return number + 1 + arg
    return arg if _VERSION >= (3, 10) else arg // 2


def all_imports(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...], bool]]:
    """Yield what *co* and the code nested in it import, the outer code's imports first.

    :param co: A code object of the running Python.
    :returns: As for :func:`codeobj_imports`, and a fourth item: True if the import happens only
        when a function is called, False if at import time (modules and class bodies).
    """
    pending = [(co, False)]
    while pending:
        current, in_function = pending.pop()
        for level, modname, names in codeobj_imports(current):
            yield level, modname, names, in_function
        nested = [const for const in current.co_consts if isinstance(const, CodeType)]
        pending.extend((inner, in_function or _is_function(inner)) for inner in reversed(nested))


def _is_function(co: CodeType) -> bool:
    """Tell whether *co* runs later than the code around it."""
    # The scope of type parameters (3.12) looks like a function, but is called at once.
    return bool(co.co_flags & _CO_OPTIMIZED) and not co.co_name.startswith(
        "<generic parameters of "
    )
