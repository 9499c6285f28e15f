"""Interruptions at every opcode: a KeyboardInterrupt where a signal could raise one."""

import dis
import functools
import pathlib
import sys

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


#: Opcodes after which the interpreter looks for signals, from Python 3.11 on.
LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD")


class _Tracer:
    def __init__(self, number, strict):
        self.left = number
        self.strict = strict
        self.where = None
        self.before = {}

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(OWN):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self.step

    def step(self, frame, event, arg):
        if event == "opcode" and self.where is None:
            code = frame.f_code
            before = self.before.get(frame, "RESUME")
            self.before[frame] = dis.opname[code.co_code[frame.f_lasti]]
            real = before.startswith(LOOKS) or sys.version_info < (3, 11)
            if frame.f_lasti not in _safe_offsets(code) and (self.strict or real):
                self.left -= 1
                if self.left < 0:
                    name = code.co_name
                    self.where = "{}:{} +{}".format(name, frame.f_lineno, frame.f_lasti)
                    raise KeyboardInterrupt(self.where)
        return self.step


def interrupt_everywhere(run, check, strict=True):
    """Call `run()` again and again, interrupted one opcode later each time, until it ends.

    :param check: called as `check(where, interrupted)` after each run
    :param strict: False: only where the interpreter looks for signals
    :returns: number of the places
    """
    for number in range(MOST):
        tracer = _Tracer(number, strict)
        interrupted = False
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            run()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        check(tracer.where, interrupted)
        if tracer.where is None:
            return number
    raise AssertionError("it never ends")
