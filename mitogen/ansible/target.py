"""
The part of an account's agent: scripts that the controller would have piped into a Python, run by a
warm interpreter (zygote.py). It is found by programs.start(), which runs them as it runs programs.

Rules
    1. A script comes in parts. Those that were sent before are named by their digest only.
    2. One zygote for each interpreter; if it dies, what it ran has failed, and the next script gets
       a new one.
    3. What a zygote can't imitate (the locale, what the interpreter itself reads from its
       environment), and an interpreter that can't be a zygote, is run as any program is: slower,
       never otherwise.

Threads: start_script() on that of its call; one for each zygote, which reads what it says.
"""

import _thread
import binascii
import marshal
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

from mitogen import core, programs
from mitogen.core import ERROR
from mitogen.endpoints import PolledReader, PolledWriter
from mitogen.programs import Refused
from mitogen.spawn import own_environment

MYPY = False
if MYPY:
    from typing import Any, Dict, List

    from mitogen.core import Router

__all__ = ["MISSING", "prepare", "start_script", "surroundings", "unpack"]

#: Bytes of parts that are kept.
KEPT_BYTES = 134217728
#: The module that an interpreter is given.
ZYGOTE = "mitogen.ansible.zygote"
#: Begins the text of a refusal, because a part was named that is not here.
MISSING = "parts of the script are not here"
#: What an interpreter reads before a script could change it.
EARLY = ("LANG", "LANGUAGE", "LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_", "DYLD_")
#: Login shells that tell a program its path; it would be that of the shell that Ansible has run.
NAMES_PROGRAM = ("bash", "ksh", "zsh")
#: What ends a script that nobody wants any more. The first one is an exception to a Python, which
#: removes its temporary files then.
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
#: Seconds between the first and the last of them, where their zygote is gone.
PAUSE = 0.5
#: Seconds between looks at whether they are gone: no child of ours tells.
LOOK = 0.02
#: Makes an interpreter a zygote: its program comes by standard input, which it never is again.
_BOOT = "import sys;exec(compile(sys.stdin.buffer.read(),'mitogen.zygote','exec'));main(%d)"


class _Parts:
    """What was sent, by digest."""

    def __init__(self) -> "None":
        self.kept: "Dict[bytes, bytes]" = {}
        self.size = 0

    def join(self, parts: "List[Any]") -> "bytes":
        """
        Return a script.

        :param list parts: pairs of digest, and what scripts.pack() makes of it or None
        :raises Refused: one is not here
        """
        found = []
        for digest, sent in parts:
            if sent is None and digest not in self.kept:
                raise Refused(MISSING)
            data = self.kept[digest] if sent is None else unpack(sent)
            found.append(data)
            if digest not in self.kept:
                if self.size + len(data) > KEPT_BYTES:
                    self.kept.clear()
                    self.size = 0
                self.kept[digest] = data
                self.size += len(data)
        return b"".join(found)


def unpack(sent: "Any") -> "bytes":
    """Return the part of a script that scripts.pack() was given."""
    if isinstance(sent, bytes):
        return sent
    before, raw, after = sent
    return bytes(before + binascii.b2a_base64(raw, newline=False) + after)


class _Child:
    """A script's process, as programs.Program wants it: a subprocess.Popen that is no child."""

    def __init__(self) -> "None":
        self.pid = 0
        self.status = 1
        self.started = core.new_lock()
        self.over = core.new_lock()

    def wait(self) -> "int":
        self.over.acquire()
        self.over.release()
        if os.WIFSIGNALED(self.status):
            return -os.WTERMSIG(self.status)
        return os.WEXITSTATUS(self.status)


class _Zygote:
    """A warm interpreter."""

    def __init__(self, router: "Router", interpreter: "str") -> "None":
        self.router = router
        self.children: "Dict[int, _Child]" = {}
        self.number = 0
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
        stdin: "Any" = self.proc.stdin
        try:
            stdin.write(_source().encode())
            stdin.close()
        except OSError:
            # It has ended; its own words follow.
            pass
        _thread.start_new_thread(self._read, ())

    def run(self, script: "bytes", env: "Dict[str, str]", cwd: "str", fds: "List[int]") -> "_Child":
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

    def _read(self) -> "None":
        """The zygote's own thread."""
        try:
            with self.sock.makefile("rb") as fp:
                while self._read_one(fp):
                    pass
        except OSError:
            # It has ended before it had read everything.
            pass
        self._end()

    def _read_one(self, fp: "Any") -> "bool":
        head = fp.read(4)
        if len(head) < 4:
            return False
        kind, number, value = marshal.loads(fp.read(int.from_bytes(head, "big")))
        if kind == "pid":
            self.children[number].pid = value
            self.children[number].started.release()
        else:
            child = self.children.pop(number)
            child.status = value
            child.over.release()
        return True

    def _end(self) -> "None":
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
        stderr: "Any" = self.proc.stderr
        with stderr:
            words = stderr.read(4096).decode("utf-8", "replace")
        status = self.proc.wait()
        self.router.log(ERROR, "a zygote has ended with status %s: %s", status, words)


def _end_groups(numbers: "List[int]") -> "None":
    """End process groups that are not our children's."""
    deadline = core.now() + PAUSE
    _signal_groups(numbers, signal.SIGINT)
    while _signal_groups(numbers, 0) and core.now() < deadline:
        time.sleep(LOOK)
    _signal_groups(numbers, signal.SIGKILL)


def _signal_groups(numbers: "List[int]", signum: "int") -> "bool":
    """Return whether there is one of them."""
    found = False
    for number in numbers:
        try:
            os.killpg(number, signum)
            found = True
        except OSError:
            pass
    return found


def _source() -> "str":
    # Not imported: this process has no use for what it would import.
    from importlib.util import find_spec

    spec: "Any" = find_spec(ZYGOTE)
    return str(spec.loader.get_source(ZYGOTE))


class _Agent:
    """What an account's context keeps for scripts."""

    def __init__(self, router: "Router") -> "None":
        self.router = router
        self.parts = _Parts()
        self.lock = _thread.allocate_lock()
        self.zygotes: "Dict[str, Any]" = {}

    def zygote_of(self, interpreter: "str") -> "Any":
        """Return the zygote of an interpreter; None if that can't be one."""
        with self.lock:
            found = self.zygotes.get(interpreter)
            if found is None or (found and not found.alive):
                if found and not found.number:
                    # It has ended before it ran anything: so would the next.
                    found = False
                else:
                    found = _Zygote(self.router, interpreter)
                self.zygotes[interpreter] = found
            return found or None


def _agent(router: "Router") -> "_Agent":
    found: "_Agent" = router.__dict__.get("_ansible") or router.__dict__.setdefault(
        "_ansible", _Agent(router)
    )
    return found


def _is_early(name: "str") -> "bool":
    return name.startswith(EARLY)


def surroundings() -> "List[Any]":
    """Return the directory and the environment that this context has been given."""
    env = own_environment()
    env.setdefault("HOME", programs.home())
    return [os.getcwd(), env]


@core.takes_router
def prepare(interpreter: "str", router: "Any" = None) -> "None":
    """
    Have an interpreter be warm before a script needs it.

    :param str interpreter: its path; "" for the one that this process has
    """
    try:
        _agent(router).zygote_of(interpreter or sys.executable)
    except OSError:
        # There is no such interpreter: whoever wants it will be told.
        pass


def start_script(router: "Router", spec: "Dict[str, Any]") -> "Any":
    """
    Start a script, for programs.start(): `args` is [interpreter, parts, added environment, cwd].

    :raises Refused: MISSING
    :raises OSError: there is no such interpreter
    """
    interpreter, parts, added = spec["args"]
    agent = _agent(router)
    script = agent.parts.join(parts)
    env = programs.environment(dict(spec, add_env=added))
    if spec.get("env") is None and os.path.basename(programs.login_shell()) in NAMES_PROGRAM:
        env.setdefault("_", "/bin/sh")
    # Which every shell sets.
    env.setdefault("PWD", spec.get("cwd") or programs.home())
    own = own_environment()
    plain = any(own.get(n) != env.get(n) for n in {*env, *own} if _is_early(n))
    started = None
    if not plain:
        started = _start_warm(router, agent, interpreter, script, env, spec)
    started = started or _start_plain(router, interpreter, script, env, spec)
    started.endings = ENDINGS
    return started


def _start_warm(
    router: "Router",
    agent: "_Agent",
    interpreter: "str",
    script: "bytes",
    env: "Dict[str, str]",
    spec: "Dict[str, Any]",
) -> "Any":
    zygote = agent.zygote_of(interpreter)
    if zygote is None:
        return None
    cwd = spec.get("cwd") or programs.home()
    stdin = os.open("/dev/null", os.O_RDONLY)
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    try:
        child = zygote.run(script, env, cwd, [stdin, out_w, err_w])
    except (OSError, ValueError):
        # Gone, and this script has not begun: a new one, or none.
        os.close(out_r)
        os.close(err_r)
        return None
    finally:
        for fd in (stdin, out_w, err_w):
            os.close(fd)
    for fd in (out_r, err_r):
        os.set_blocking(fd, False)
    broker = router.broker
    null = PolledWriter(broker, os.open("/dev/null", os.O_WRONLY | os.O_NONBLOCK))
    return programs.Started(null, PolledReader(broker, out_r), PolledReader(broker, err_r), child)


def _start_plain(
    router: "Router",
    interpreter: "str",
    script: "bytes",
    env: "Dict[str, str]",
    spec: "Dict[str, Any]",
) -> "Any":
    import tempfile

    with tempfile.TemporaryFile() as fp:
        fp.write(script)
        fp.seek(0)
        # Below a shell, as Ansible does it: it leads neither a session nor a group.
        words = ["/bin/sh", "-c", shlex.quote(interpreter)]
        plain = dict(spec, kind="argv", args=words, env=env, add_env=None)
        return programs.start_on_pipes(router, plain, fp.fileno())
