"""
Warm interpreters of an account's agent, each a process that runs zygote.py. This module is quick to
import, so that they start while the rest of the agent (runner.py) is still being sent.

Rules
    1. Each interpreter has one zygote; if it dies, its running scripts have failed, and the next
       script gets a new one.
    2. An interpreter that can't be a zygote is tried once only.

Threads: any; each zygote has a thread that reads its replies.
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

#: Module run by the interpreter.
ZYGOTE = "mitogen.ansible.agent.zygote"
#: Seconds between SIGINT and SIGKILL for the scripts of a zygote that is gone.
GRACE = 0.5
#: Seconds between polls for their exit: they are not children of this process.
POLL_INTERVAL = 0.02
#: Program of a zygote: reads its source from standard input, which it does not use again.
_BOOT = "import sys;exec(compile(sys.stdin.buffer.read(),'mitogen.zygote','exec'));main(%d)"


class _Child:
    """A script's process: what programs.Program needs of a subprocess.Popen, for a non-child."""

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
        #: True once it has run a script: an interpreter that is too old exits at once.
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
            # It has exited; its error output follows.
            pass
        _thread.start_new_thread(self._read, ())

    def run(self, script: bytes, env: dict[str, str], cwd: str, fds: list[int]) -> _Child:
        """
        Run a script; the caller keeps its descriptors.

        :raises ConnectionError: the zygote is gone
        """
        child = _Child()
        with self.lock:
            if not self.alive:
                raise ConnectionError("the zygote has exited")
            self.number += 1
            self.children[self.number] = child
            data = marshal.dumps(("run", self.number, script, env, cwd), 2)
            frame = len(data).to_bytes(4, "big") + data
            rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            sent = self.sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            self.sock.sendall(memoryview(frame)[sent:])
        child.started.acquire()
        if not child.pid:
            raise ConnectionError("the zygote has exited")
        return child

    def _read(self) -> None:
        """Read replies until the zygote's end. Runs on a thread of its own."""
        try:
            with self.sock.makefile("rb") as fp:
                while self._read_one(fp):
                    pass
        except OSError:
            # It exited before it had read everything.
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
        # The zygote was probably killed, so this process must end its scripts.
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
        # Otherwise this interpreter can't be a zygote, which is no error.
        if self.has_run:
            self.router.log(ERROR, "a zygote has exited with status %s: %s", status, words)


def _end_groups(numbers: list[int]) -> None:
    """End process groups that this process is not the parent of."""
    deadline = core.now() + GRACE
    _signal_groups(numbers, signal.SIGINT)
    while _signal_groups(numbers, 0) and core.now() < deadline:
        time.sleep(POLL_INTERVAL)
    _signal_groups(numbers, signal.SIGKILL)


def _signal_groups(numbers: list[int], signum: int) -> bool:
    """Signal process groups; return whether any of them exists."""
    found = False
    for number in numbers:
        try:
            os.killpg(number, signum)
            found = True
        except OSError:
            pass
    return found


def _source() -> str:
    # Not imported: its imports are of no use in this process.
    from importlib.util import find_spec

    spec: Any = find_spec(ZYGOTE)
    return str(spec.loader.get_source(ZYGOTE))


class _Zygotes:
    """Zygotes of a context."""

    def __init__(self, _router: Router) -> None:
        self.lock = _thread.allocate_lock()
        #: By interpreter's path; False for an interpreter that can't be a zygote.
        self.found: dict[str, Any] = {}


def zygote_of(router: Router, interpreter: str) -> Zygote | None:
    """Return the zygote of an interpreter, a path; None if it can't have one."""
    own = router.component(_Zygotes)
    with own.lock:
        found: Any = own.found.get(interpreter)
        if found is None or (found and not found.alive):
            # A zygote that exited before it ran a script would do so again.
            found = False if found and not found.has_run else Zygote(router, interpreter)
            own.found[interpreter] = found
        return found or None


@core.takes_router
def prepare(interpreter: str, router: Any = None) -> None:
    """
    Start an interpreter's zygote before a script needs it.

    :param str interpreter: path of the interpreter; "" for this process's own
    """
    try:
        zygote_of(router, interpreter or sys.executable)
    except OSError:
        # No such interpreter: the first script that needs it will fail with the error.
        pass
