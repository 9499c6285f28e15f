"""List the modules that compiled code imports.

One job: find IMPORT_NAME in the bytecode of the running Python (CPython 3.9 to 3.15, PyPy) and read
its operands. Nothing is executed, and nothing but :mod:`opcode` is needed (``dis`` costs 8 ms to
import and is four times slower).

The layout of an operand is not part of any table here, as releases change it: flags stand below the
number of a name since 3.11 for LOAD_GLOBAL, 3.12 for LOAD_ATTR, 3.15 for IMPORT_NAME (``lazy
import``). It is learned once per process from code whose names are known. Where that fails, ``dis``
reads the code.

Code below ``if TYPE_CHECKING:`` or ``if MYPY:`` is passed over: it is never run.

What it does not do: see calls of ``__import__`` or ``importlib.import_module``, or tell whether any
other branch is ever taken.

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
_LOAD_SMALL_INT = opcode.opmap.get("LOAD_SMALL_INT")  # 3.14 and later; its operand is the number.
_GUARDS = frozenset(["MYPY", "TYPE_CHECKING"])
_LOADS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_ATTR")
_JUMPS = ("POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_IF_FALSE")  # The first one in 3.11 only.
_CACHE = 0
#: Instructions that may stand between the load of a guard and the jump.
_BETWEEN = frozenset([_CACHE, _EXTENDED_ARG, opcode.opmap.get("TO_BOOL", _CACHE)])
_CO_OPTIMIZED = 0x1  # Set for functions, not for the bodies of modules and classes.

#: Each of IMPORT_NAME and _LOADS occurs twice, for two names that follow each other in co_names.
_PROBE = """
import a, b
a.c
b.d
global e, f
e
f
"""
#: The jump leads to the last LOAD_NAME.
_JUMP_PROBE = """
if a:
    a, a, a, a
b
"""


class _Layout:
    """
    The operands of the running Python.

    :param steps: By opcode: how much the operand grows from one name to the next.
    :param jump: The opcode of the jump past a body whose condition is false.
    :param jump_unit: How much the jump's operand grows per instruction.
    """

    def __init__(self, steps: dict[int, int], jump: int, jump_unit: int) -> None:
        self.steps = steps
        self.jump = jump
        self.jump_unit = jump_unit


@functools.lru_cache(maxsize=1)
def _layout() -> _Layout | None:
    """Learn the layout of operands from code whose names are known; None if it can't be."""
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
    """Return the instruction that the operand of *jump*, the one of that *number*, counts from."""
    if jump in opcode.hasjabs:  # Up to 3.10.
        return 0
    number += 1
    while ops[number] == _CACHE:
        number += 1
    return number


def codeobj_imports(co: CodeType) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Yield what *co* itself imports, in order of the bytecode, without the code nested in it.

    :param co: A code object of the running Python.
    :returns: Triples *(level, modname, names)*: the number of leading dots; the module's name as
        written, ``""`` for ``from . import x``; the names after ``from ... import``, ``("*",)`` for
        a star, ``()`` for a plain ``import``. Those of ``lazy import`` (3.15) are among them.
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
    """Return the number of the instruction before the one of that *number*, and its operand."""
    operand, shift = args[number], 8
    while number and ops[number - 1] == _EXTENDED_ARG:
        number -= 1
        operand |= args[number] << shift
        shift += 8
    return number - 1, operand


def _loaded(co: CodeType, ops: bytes, args: bytes, number: int) -> tuple[int, object]:
    """Return the number of the instruction before, and the constant that an instruction loads."""
    if number < 0:
        return number, None
    before, operand = _operand(ops, args, number)
    if ops[number] == _LOAD_SMALL_INT:
        return before, operand
    # LOAD_COMMON_CONSTANT (3.14) is not among them; None is one of its constants since 3.15.
    return before, co.co_consts[operand] if ops[number] in opcode.hasconst else None


def _unused(co: CodeType, ops: bytes, args: bytes, layout: _Layout) -> list[range]:
    """Return the instructions below ``if TYPE_CHECKING:`` and ``if MYPY:``."""
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
    """Yield the same as codeobj_imports(), slowly and for every layout of operands."""
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
