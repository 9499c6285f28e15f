"""Interruptions at every opcode: a KeyboardInterrupt where a signal could raise one."""

import contextlib
import dis
import functools
import pathlib
import sys
import threading

from mitogen import core

__all__ = ["interrupt_everywhere"]

#: Folders whose functions are interrupted.
OWN = tuple(str(pathlib.Path(core.__file__).parents[1] / name) for name in ("core", "calls"))
#: Most opcodes of one run; more is an endless loop.
MOST = 20000


@functools.lru_cache(None)
def _safe_offsets(code):
    """Return the offsets where the interpreter looks for no signals, and no handler is in force.

    It looks after calls and jumps. So nothing is raised at the NOP that begins a `try`, nor between
    the body of a `with` and its call of __exit__().
    """
    found = set()
    steps = list(dis.get_instructions(code))
    for at, step in enumerate(steps):
        if step.opname == "NOP":
            found.add(step.offset)
        names = [each.opname for each in steps[at : at + 3]]
        if step.opname == "LOAD_CONST" and step.argval is None:
            if names[1:] in (["LOAD_CONST"] * 2, ["DUP_TOP"] * 2):
                first = last = at
                if steps[first - 1].opname == "POP_BLOCK":
                    first -= 1
                while "CALL" not in steps[last].opname or "CALL" in steps[last + 1].opname:
                    last += 1
                found.update(each.offset for each in steps[first : last + 1])
    return found


#: A tool of sys.monitoring that nothing else uses.
TOOL = 4
#: Opcodes after which the interpreter looks for signals. Before Python 3.11, there are more.
LOOKS = ("CALL", "RESUME", "JUMP")


class _Interrupter:
    """Raises KeyboardInterrupt at one opcode of this thread."""

    def __init__(self, number, strict):
        self.left = number
        self.strict = strict
        self.where = None
        self.before = "RESUME"
        self.thread = threading.get_ident()

    def at(self, code, offset):
        before, self.before = self.before, dis.opname[code.co_code[offset]]
        real = self.strict or before.startswith(LOOKS)
        if self.where is None and real and offset not in _safe_offsets(code):
            self.left -= 1
            if self.left < 0:
                self.where = "{} +{}".format(code.co_name, offset)
                raise KeyboardInterrupt(self.where)

    # -- sys.settrace()

    def on_call(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.on_event

    def on_event(self, frame, event, arg):
        if event == "opcode":
            self.at(frame.f_code, frame.f_lasti)
        return self.on_event

    # -- sys.monitoring, from Python 3.12 on

    def on_instruction(self, code, offset):
        if not code.co_filename.startswith(OWN):
            return sys.monitoring.DISABLE
        if threading.get_ident() == self.thread:
            self.at(code, offset)


@contextlib.contextmanager
def _watched(interrupter):
    """Show each opcode in the `with` to an _Interrupter."""
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:
        before = sys.gettrace()
        sys.settrace(interrupter.on_call)
        try:
            yield
        finally:
            sys.settrace(before)
        return
    event = monitoring.events.INSTRUCTION
    monitoring.use_tool_id(TOOL, "races")
    monitoring.register_callback(TOOL, event, interrupter.on_instruction)
    monitoring.set_events(TOOL, event)
    try:
        yield
    finally:
        monitoring.set_events(TOOL, 0)
        monitoring.free_tool_id(TOOL)


def interrupt_everywhere(run, check, strict=True):
    """Call `run()` again and again, interrupted one opcode later each time, until it ends.

    :param check: called as `check(where, interrupted)` after each run
    :param strict: False: only where the interpreter looks for signals
    :returns: number of the places
    """
    for number in range(MOST):
        interrupter = _Interrupter(number, strict)
        interrupted = False
        try:
            with _watched(interrupter):
                run()
        except KeyboardInterrupt:
            interrupted = True
        check(interrupter.where, interrupted)
        if interrupter.where is None:
            return number
    raise AssertionError("it never ends")
