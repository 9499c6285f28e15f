"""
The warm interpreters of an account's agent, each a process that runs zygote.py. This much can be
imported fast, so that they begin while the rest of the agent (runner.py) is still on its way.

Rules
    1. One zygote for each interpreter; if it dies, what it ran has failed, and the next script gets
       a new one.
    2. An interpreter that can't be a zygote is found out once.

Threads: any; one for each zygote, which reads what it says.
"""

from __future__ import annotations

import _thread
import marshal
import os
import signal
import socket
import subprocess
import sys
import time

from mitogen import core
from mitogen.bootstrap.spawn import own_environment
from mitogen.core import ERROR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mitogen.core import Router

__all__ = ["Zygote", "prepare", "zygote_of"]

#: The module that an interpreter is given.
ZYGOTE = "mitogen.ansible.agent.zygote"
#: Seconds between the first and the last of them, where their zygote is gone.
PAUSE = 0.5
#: Seconds between looks at whether they are gone: no child of ours tells.
LOOK = 0.02
#: Makes an interpreter a zygote: its program comes by standard input, which it never is again.
_BOOT = "import sys;exec(compile(sys.stdin.buffer.read(),'mitogen.zygote','exec'));main(%d)"


class _Child:
    """A script's process, as programs.Program wants it: a subprocess.Popen that is no child."""

    def __init__(self) -> None:
        self.pid = 0
        self.status = 1
        self.started = core.new_lock()
        self.over = core.new_lock()

    def wait(self) -> int:
        self.over.acquire()
        self.over.release()
        if os.WIFSIGNALED(self.status):
            return -os.WTERMSIG(self.status)
        return os.WEXITSTATUS(self.status)


class Zygote:
    """A warm interpreter."""

    def __init__(self, router: Router, interpreter: str) -> None:
        self.router = router
        self.children: dict[int, _Child] = {}
        self.number = 0
        #: Whether it has ever run anything: an interpreter that is too old ends at once.
        self.has_run = False
        self.lock = _thread.allocate_lock()
        self.alive = True
        self.sock, theirs = socket.socketpair()
        with theirs:
            self.proc = subprocess.Popen(
                [interpreter, "-c", _BOOT % theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                cwd="/",
                env=own_environment(),
                start_new_session=True,
            )
        stdin: Any = self.proc.stdin
        try:
            stdin.write(_source().encode())
            stdin.close()
        except OSError:
            # It has ended; its own words follow.
            pass
        _thread.start_new_thread(self._read, ())

    def run(self, script: bytes, env: dict[str, str], cwd: str, fds: list[int]) -> _Child:
        """
        Run a script; the descriptors stay the caller's.

        :raises ConnectionError: the zygote is gone
        """
        child = _Child()
        with self.lock:
            if not self.alive:
                raise ConnectionError("the zygote has ended")
            self.number += 1
            self.children[self.number] = child
            data = marshal.dumps(("run", self.number, script, env, cwd), 2)
            frame = len(data).to_bytes(4, "big") + data
            rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            sent = self.sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            self.sock.sendall(memoryview(frame)[sent:])
        child.started.acquire()
        if not child.pid:
            raise ConnectionError("the zygote has ended")
        return child

    def _read(self) -> None:
        """The zygote's own thread."""
        try:
            with self.sock.makefile("rb") as fp:
                while self._read_one(fp):
                    pass
        except OSError:
            # It has ended before it had read everything.
            pass
        self._end()

    def _read_one(self, fp: Any) -> bool:
        head = fp.read(4)
        if len(head) < 4:
            return False
        kind, number, value = marshal.loads(fp.read(int.from_bytes(head, "big")))
        if kind == "pid":
            self.has_run = True
            self.children[number].pid = value
            self.children[number].started.release()
        else:
            child = self.children.pop(number)
            child.status = value
            child.over.release()
        return True

    def _end(self) -> None:
        with self.lock:
            self.alive = False
            children = list(self.children.values())
            self.children.clear()
        self.sock.close()
        # Killed, as far as anybody can know; nobody else would end them.
        _end_groups([child.pid for child in children if child.pid])
        for child in children:
            child.status = signal.SIGKILL
            if not child.pid:
                child.started.release()
            child.over.release()
        stderr: Any = self.proc.stderr
        with stderr:
            words = stderr.read(4096).decode("utf-8", "replace")
        status = self.proc.wait()
        # Else this interpreter can't be one, and does without.
        if self.has_run:
            self.router.log(ERROR, "a zygote has ended with status %s: %s", status, words)


def _end_groups(numbers: list[int]) -> None:
    """End process groups that are not our children's."""
    deadline = core.now() + PAUSE
    _signal_groups(numbers, signal.SIGINT)
    while _signal_groups(numbers, 0) and core.now() < deadline:
        time.sleep(LOOK)
    _signal_groups(numbers, signal.SIGKILL)


def _signal_groups(numbers: list[int], signum: int) -> bool:
    """Return whether there is one of them."""
    found = False
    for number in numbers:
        try:
            os.killpg(number, signum)
            found = True
        except OSError:
            pass
    return found


def _source() -> str:
    # Not imported: this process has no use for what it would import.
    from importlib.util import find_spec

    spec: Any = find_spec(ZYGOTE)
    return str(spec.loader.get_source(ZYGOTE))


class _Zygotes:
    """Those of a context."""

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        #: By interpreter; False for one that can't be any.
        self.found: dict[str, Any] = {}


def zygote_of(router: Router, interpreter: str) -> Zygote | None:
    """Return the zygote of an interpreter, a path; None if that can't be one."""
    own: _Zygotes = router.__dict__.get("_zygotes") or router.__dict__.setdefault(
        "_zygotes", _Zygotes()
    )
    with own.lock:
        found: Any = own.found.get(interpreter)
        if found is None or (found and not found.alive):
            # One that has ended before it ran anything: so would the next.
            found = False if found and not found.has_run else Zygote(router, interpreter)
            own.found[interpreter] = found
        return found or None


@core.takes_router
def prepare(interpreter: str, router: Any = None) -> None:
    """
    Have an interpreter be warm before a script needs it.

    :param str interpreter: its path; "" for the one that this process has
    """
    try:
        zygote_of(router, interpreter or sys.executable)
    except OSError:
        # There is no such interpreter: whoever wants it will be told.
        pass
