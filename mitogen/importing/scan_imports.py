"""List the modules that compiled code imports.

One job: find IMPORT_NAME in the bytecode of the running Python (CPython 3.9 to 3.15, PyPy) and read
its operands. No code is executed, and only :mod:`opcode` is needed: importing ``dis`` takes 8 ms,
and scanning with it is four times slower.

Rules:

* No table here describes the layout of an operand, because releases change it: flag bits sit below
  a name's index since 3.11 for LOAD_GLOBAL, 3.12 for LOAD_ATTR, 3.15 for IMPORT_NAME (``lazy
  import``). The layout is learned once per process, from code whose names are known. If that fails,
  ``dis`` reads the code.
* Code below ``if TYPE_CHECKING:`` or ``if MYPY:`` is skipped: it never runs.
* Calls of ``__import__`` and ``importlib.import_module`` are not detected, nor are other branches
  that are never taken.

Threads: pure functions without state, callable from any thread. Controlling machine only.
"""

from __future__ import annotations

import functools
import opcode
from types import CodeType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["all_imports", "codeobj_imports"]

_IMPORT_NAME = opcode.opmap["IMPORT_NAME"]
_EXTENDED_ARG = opcode.EXTENDED_ARG
_LOAD_SMALL_INT = opcode.opmap.get("LOAD_SMALL_INT")  # 3.14 and later; the operand is the value.
_GUARDS = frozenset(["MYPY", "TYPE_CHECKING"])
_LOADS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_ATTR")
_JUMPS = ("POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_IF_FALSE")  # The first exists in 3.11 only.
_CACHE = 0
#: Instructions that may occur between the load of a guard and the jump.
_BETWEEN = frozenset([_CACHE, _EXTENDED_ARG, opcode.opmap.get("TO_BOOL", _CACHE)])
_CO_OPTIMIZED = 0x1  # Set for functions, not for the bodies of modules and classes.

#: Code with each of IMPORT_NAME and _LOADS twice, for two names adjacent in co_names.
_PROBE = """
import a, b
a.c
b.d
global e, f
e
f
"""
#: Code with a jump to its last LOAD_NAME.
_JUMP_PROBE = """
if a:
    a, a, a, a
b
"""


class _Layout:
    """
    Layout of operands in the running Python's bytecode.

    :param steps: Per opcode, the difference between the operands of adjacent names.
    :param jump: Opcode of the jump over a body whose condition is false.
    :param jump_unit: Growth of the jump's operand per instruction.
    """

    def __init__(self, steps: dict[int, int], jump: int, jump_unit: int) -> None:
        self.steps = steps
        self.jump = jump
        self.jump_unit = jump_unit


@functools.lru_cache(maxsize=1)
def _layout() -> _Layout | None:
    """Learn the layout of operands from code whose names are known; None if that fails."""
    try:
        loads = [opcode.opmap[name] for name in _LOADS]
        jump = next(opcode.opmap[name] for name in _JUMPS if name in opcode.opmap)
        code = compile(_PROBE, "<probe>", "exec").co_code
        steps = {}
        for op in [_IMPORT_NAME, *loads]:
            first, second = (code[2 * at + 1] for at in _positions(code, op))
            steps[op] = second - first
        code = compile(_JUMP_PROBE, "<probe>", "exec").co_code
        (at,) = _positions(code, jump)
        distance = _positions(code, loads[0])[-1] - _jump_base(code[::2], at, jump)
        unit, rest = divmod(code[2 * at + 1], distance)
    except (KeyError, StopIteration, ValueError, IndexError, ZeroDivisionError):
        return None
    return None if rest or min(unit, *steps.values()) < 1 else _Layout(steps, jump, unit)


def _positions(code: bytes, op: int) -> list[int]:
    return [number for number, each in enumerate(code[::2]) if each == op]


def _jump_base(ops: bytes, number: int, jump: int) -> int:
    """Return the instruction that the operand of the *jump* at *number* is relative to."""
    if jump in opcode.hasjabs:  # Up to 3.10.
        return 0
    number += 1
    while ops[number] == _CACHE:
        number += 1
    return number


def codeobj_imports(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield the imports in *co* in bytecode order, without those in nested code.

    :param co: A code object of the running Python.
    :returns: Triples *(level, modname, names)*: the number of leading dots; the module's name as
        written, ``""`` for ``from . import x``; the names after ``from ... import``, ``("*",)`` for
        a star, ``()`` for a plain ``import``. ``lazy import`` (3.15) is included.
    """
    ops, args = co.co_code[::2], co.co_code[1::2]
    number = ops.find(_IMPORT_NAME)
    if number < 0:
        return
    layout = _layout()
    if layout is None:
        yield from _imports_by_dis(co)
        return
    unused = _unused(co, ops, args, layout)
    while number >= 0:
        if not any(number in each for each in unused):
            before, name = _operand(ops, args, number)
            before, names = _loaded(co, ops, args, before)
            before, level = _loaded(co, ops, args, before)
            if isinstance(level, int):
                modname = co.co_names[name // layout.steps[_IMPORT_NAME]]
                yield level, modname, names if isinstance(names, tuple) else ()
        number = ops.find(_IMPORT_NAME, number + 1)


def _operand(ops: bytes, args: bytes, number: int) -> tuple[int, int]:
    """Return the operand of instruction *number*, after the index of the instruction before it."""
    operand, shift = args[number], 8
    while number and ops[number - 1] == _EXTENDED_ARG:
        number -= 1
        operand |= args[number] << shift
        shift += 8
    return number - 1, operand


def _loaded(co: CodeType, ops: bytes, args: bytes, number: int) -> tuple[int, object]:
    """Return the constant loaded by an instruction, after the index of the one before it."""
    if number < 0:
        return number, None
    before, operand = _operand(ops, args, number)
    if ops[number] == _LOAD_SMALL_INT:
        return before, operand
    # LOAD_COMMON_CONSTANT (3.14) is not handled, though None is one of its constants since 3.15.
    return before, co.co_consts[operand] if ops[number] in opcode.hasconst else None


def _unused(co: CodeType, ops: bytes, args: bytes, layout: _Layout) -> list[range]:
    """Return the ranges of instructions below ``if TYPE_CHECKING:`` and ``if MYPY:``."""
    found: list[range] = []
    if _GUARDS.isdisjoint(co.co_names):
        return found
    guarded = False  # The last instruction loaded one of _GUARDS.
    for number, op in enumerate(ops):
        if op in _BETWEEN:
            continue
        if guarded and op == layout.jump:
            distance = _operand(ops, args, number)[1] // layout.jump_unit
            found.append(range(number, _jump_base(ops, number, op) + distance))
        guarded = False
        if op in layout.steps and op != _IMPORT_NAME:
            guarded = co.co_names[_operand(ops, args, number)[1] // layout.steps[op]] in _GUARDS
    return found


def _imports_by_dis(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield the same as codeobj_imports(), slowly but for any layout of operands."""
    import dis

    level: object = None
    names: object = None
    skipped_to = 0  # In bytes.
    guarded = False
    for instruction in dis.get_instructions(co):
        name, value = instruction.opname, instruction.argval
        if instruction.offset < skipped_to or name in ("EXTENDED_ARG", "TO_BOOL"):
            continue
        if name == "IMPORT_NAME" and isinstance(level, int):
            yield level, value, names if isinstance(names, tuple) else ()
        if guarded and name in _JUMPS:
            skipped_to = value
        guarded = name in _LOADS and value in _GUARDS
        level, names = names, value


def all_imports(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...], bool]]:
    """Yield the imports in *co* and in the code nested in it, the outer code's first.

    :param co: A code object of the running Python.
    :returns: Items as of :func:`codeobj_imports`, plus a flag: True if the import runs only when a
        function is called, False if at import time (modules and class bodies).
    """
    pending = [(co, False)]
    while pending:
        current, in_function = pending.pop()
        for level, modname, names in codeobj_imports(current):
            yield level, modname, names, in_function
        nested = [const for const in current.co_consts if isinstance(const, CodeType)]
        pending.extend((inner, in_function or _is_function(inner)) for inner in reversed(nested))


def _is_function(co: CodeType) -> bool:
    """Return whether *co* runs later than the code around it."""
    # The scope of type parameters (3.12) has a function's flags, but runs at once.
    return bool(co.co_flags & _CO_OPTIMIZED) and not co.co_name.startswith(
        "<generic parameters of "
    )
