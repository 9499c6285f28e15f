"""
A warm interpreter that runs scripts: one process with one thread, which forks a child for each
script that would otherwise be piped into a new Python.

This is a program of its own, given to an interpreter by warm.py, and imports nothing of mitogen.
Frames on its socket are a length (4 bytes, big-endian) and a tuple in marshal's format; a script's
descriptors 0, 1 and 2 accompany its frame (SCM_RIGHTS).

    to it       ("run", number, script, env, cwd); ("kill", number)
    from it     ("pid", number, pid); ("exit", number, status of waitpid(2))

Rules
    1. A child has the state of a newly started Python: modules, `__main__`, arguments, descriptors,
       signals, random numbers, time zone. A script that depends on unchangeable state (the locale,
       PYTHON* variables) is not sent to a zygote at all.
    2. `ansible.module_utils` is preloaded from the first script's zip. A script whose zip has other
       bytes for any of these modules runs in a child that first drops them all.
    3. Each child leads a session and a group. When the socket is closed, all groups are terminated.

Threads: one, ever.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import binascii
import gc
import io
import marshal
import os
import re
import select
import sys
import zipfile
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["ZIP", "main"]

#: A zip in base64 within a script: begins with a local file header, and is at least this long.
ZIP = re.compile(rb"UEsDB[A-Za-z0-9+/]{2000,}={0,2}")
#: Modules that most scripts import first.
PRELOADED = (
    "base64 shutil tempfile runpy json datetime time pwd grp stat subprocess platform shlex "
    "traceback types copy errno fcntl hashlib locale random selectors signal syslog uuid glob "
    "grp atexit functools collections contextlib dataclasses enum typing inspect ast string "
    "struct socket"
).split()
#: Signals ignored by the process between the zygote and a script.
IGNORED_SIGNALS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
#: Maximum number of zips with a cached result of their comparison with the preloaded modules.
KEPT = 256
#: Signals that terminate children at shutdown, each with the seconds until the next. In a Python
#: the first raises an exception, so that it removes its temporary files.
SHUTDOWN_SIGNALS = ((_signal.SIGINT, 0.5), (_signal.SIGTERM, 0.5), (_signal.SIGKILL, 0))


class ZipPackages:
    """
    The `__path__` of a package preloaded from a zip. That zip is gone; the zips that a script has
    put on sys.path take its place.

    :param str inside: the package's directory within a zip
    """

    def __init__(self, inside: str) -> None:
        self.inside = inside

    def _paths(self) -> list[str]:
        return [os.path.join(p, self.inside) for p in sys.path if p[-4:] == ".zip"]

    def __iter__(self) -> Any:
        return iter(self._paths())

    def __len__(self) -> int:
        return len(self._paths())

    def __getitem__(self, index: Any) -> Any:
        return self._paths()[index]

    def __contains__(self, item: object) -> bool:
        return item in self._paths()

    def __repr__(self) -> str:
        return repr(self._paths())

    def append(self, item: str) -> None:
        """Do nothing. pkgutil.extend_path() calls this, but there is nothing to extend."""


class Zygote:
    """
    State of the zygote process.

    :param sock: the socket to the agent
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.buffer = b""
        self.fds: list[int] = []
        self.pids: dict[int, int] = {}
        #: The locale that Python itself has set, for lack of one in the environment (PEP 538).
        self.coerced = os.environ.get("LC_CTYPE")
        #: CRC-32 of the source of each preloaded module, by its name within a zip.
        self.sources: dict[str, int] = {}
        #: Results of _is_warm(), by CRC-32 and length of the zip's base64.
        self.agrees: dict[Any, bool] = {}

    # -- frames

    def send(self, *fields: Any) -> None:
        data = marshal.dumps(fields)
        try:
            self.sock.sendall(len(data).to_bytes(4, "big") + data)
        except OSError:
            # The next recv() fails too.
            pass

    def receive(self) -> bool:
        """Receive data and handle complete frames; return False at the end."""
        import socket

        data, rights, _, _ = self.sock.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 64))
        for level, kind, payload in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for at in range(0, len(payload) - len(payload) % 4, 4):
                    self.fds.append(int.from_bytes(payload[at : at + 4], sys.byteorder))
        self.buffer += data
        while len(self.buffer) >= 4:
            size = 4 + int.from_bytes(self.buffer[:4], "big")
            if len(self.buffer) < size:
                break
            frame, self.buffer = self.buffer[4:size], self.buffer[size:]
            fields = marshal.loads(frame)
            HANDLERS[fields[0]](self, *fields[1:])
        return bool(data)

    # -- handlers

    def run(self, number: int, script: bytes, env: dict[str, str], cwd: str) -> None:
        """Fork a child for a script."""
        fds, self.fds = self.fds[:3], self.fds[3:]
        warm = self._is_warm(script)
        if hasattr(gc, "freeze"):
            # Otherwise the first collection in a child would copy the whole heap.
            gc.freeze()
        pid = os.fork()
        if not pid:
            self._run_child(script, env, cwd, fds, warm)
        self.pids[pid] = number
        for fd in fds:
            os.close(fd)
        self.send("pid", number, pid)

    def kill(self, number: int) -> None:
        """Kill a script, and the processes in its group."""
        for pid, each in self.pids.items():
            if each == number:
                self.signal(pid, _signal.SIGKILL)

    def signal(self, pid: int, signum: int) -> bool:
        """Send a signal to a script's group; return whether the group exists."""
        try:
            os.killpg(pid, signum)
            return True
        except OSError:
            if pid not in self.pids:
                return False
        # The child is not a group leader yet, or has just exited.
        try:
            os.kill(pid, signum)
            return True
        except OSError:
            return False

    def reap(self) -> None:
        while self.pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            number = self.pids.pop(pid, None)
            if number is not None:
                self.send("exit", number, status)

    # -- preloaded modules

    def _is_warm(self, script: bytes) -> bool:
        """Return whether a script may run with the preloaded modules."""
        found = ZIP.search(script)
        if not found:
            return not self.sources
        key = (zlib.crc32(found.group()), len(found.group()))
        if key not in self.agrees:
            try:
                data = binascii.a2b_base64(found.group())
                archive = zipfile.ZipFile(io.BytesIO(data))
            except (ValueError, zipfile.BadZipFile):
                return not self.sources
            if not self.sources:
                self._preload(data, archive)
            if len(self.agrees) >= KEPT:
                self.agrees.clear()
            self.agrees[key] = all(
                self.sources.get(info.filename, info.CRC) == info.CRC for info in archive.infolist()
            )
        return self.agrees[key]

    def _preload(self, data: bytes, archive: Any) -> None:
        """Import `ansible.module_utils` from a zip, so that children don't need to."""
        import tempfile

        names = {info.filename: info.CRC for info in archive.infolist()}
        before = set(sys.modules)
        # A named file would be left behind if this process were killed meanwhile.
        nameless = os.path.isdir("/proc/self/fd")
        make: Any = tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile
        with make() as fp:
            fp.write(data)
            fp.flush()
            path = "/proc/self/fd/%d" % fp.fileno() if nameless else fp.name
            sys.path.insert(0, path)
            for name in sorted(names):
                if name.startswith("ansible/module_utils/") and name.endswith(".py"):
                    self._import(name)
            sys.path.remove(path)
        sys.path_importer_cache.pop(path, None)
        for fullname in set(sys.modules) - before:
            inside = fullname.replace(".", "/")
            for name in (inside + ".py", inside + "/__init__.py"):
                if name in names:
                    self.sources[name] = names[name]
            module = sys.modules[fullname]
            if inside + "/__init__.py" in names and hasattr(module, "__path__"):
                module.__path__ = ZipPackages(inside)  # type: ignore[assignment]  # list-like

    @staticmethod
    def _import(name: str) -> None:
        fullname = name[:-3].replace("/", ".")
        if fullname.endswith(".__init__"):
            fullname = fullname[:-9]
        if "respawn" in fullname or "_extensions" in fullname:
            return
        streams = sys.stdout, sys.stderr
        # Later scripts inherit copies of the stream buffers, so output must not remain there.
        sys.stdout = sys.stderr = io.StringIO()
        try:
            __import__(fullname)
        except BaseException:
            # A dependency may be missing here. A script that needs the module imports it again.
            sys.modules.pop(fullname, None)
        finally:
            sys.stdout, sys.stderr = streams

    # -- children

    def _run_child(
        self, script: bytes, env: dict[str, str], cwd: str, fds: list[int], warm: bool
    ) -> NoReturn:
        """Child: set up the state of a Python that reads `script` from stdin, and raise Script."""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, IGNORED_SIGNALS)
        os.setsid()
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.sock.close()
        # As below a shell: the script leads neither a session nor a group, and may create its own.
        pid = os.fork()
        if pid:
            # Signals to the group are for the script, which may take some time to exit.
            for number in IGNORED_SIGNALS:
                _signal.signal(number, _signal.SIG_IGN)
            _exit_like(os.waitpid(pid, 0)[1])
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, IGNORED_SIGNALS)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.closerange(3, 4096 if not hasattr(os, "sysconf") else max(3, _highest_fd()) + 1)
        os.environ.clear()
        os.environ.update(env)
        if self.coerced is not None:
            os.environ.setdefault("LC_CTYPE", self.coerced)
        for place in (cwd, env.get("HOME", "/"), "/"):
            try:
                os.chdir(place)
                break
            except OSError:
                continue
        if not warm:
            for name in [n for n in sys.modules if n.partition(".")[0] == "ansible"]:
                del sys.modules[name]
        _reset_caches()
        raise Script(script)


def _exit_like(status: int) -> NoReturn:
    """Exit in the same way as a process with that status of waitpid(2)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, IGNORED_SIGNALS)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _highest_fd() -> int:
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd"))
    except (OSError, ValueError):
        return 1024


def _reset_caches() -> None:
    """Reset state that a new process would initialize itself."""
    import time

    if hasattr(time, "tzset"):
        time.tzset()
    random: Any = sys.modules.get("random")
    if random:
        random.seed()
    platform: Any = sys.modules.get("platform")
    if platform:
        for name in ("_uname_cache", "_sys_version_cache", "_platform_cache"):
            cache = getattr(platform, name, None)
            if isinstance(cache, dict):
                cache.clear()
            elif cache is not None:
                setattr(platform, name, None)


class Script(BaseException):
    """Carries a child's script out of the zygote's stack frames."""


HANDLERS: dict[str, Any] = {"run": Zygote.run, "kill": Zygote.kill}


def serve(zygote: Zygote) -> None:
    """Serve until the socket is closed; in a child, raise Script."""
    rfd, wfd = os.pipe()
    os.set_blocking(rfd, False)
    os.set_blocking(wfd, False)
    _signal.signal(_signal.SIGCHLD, lambda *_: None)
    _signal.set_wakeup_fd(wfd)
    poll = select.poll()
    poll.register(zygote.sock, select.POLLIN)
    poll.register(rfd, select.POLLIN)
    serving = True
    while serving:
        for fd, _ in poll.poll():
            if fd == rfd:
                try:
                    os.read(rfd, 4096)
                except BlockingIOError:
                    pass
                zygote.reap()
            else:
                try:
                    serving = zygote.receive()
                except OSError:
                    serving = False
    _terminate_children(zygote)


def _terminate_children(zygote: Zygote) -> None:
    import time

    # A group may outlive its leader.
    groups = list(zygote.pids)
    for signum, grace in SHUTDOWN_SIGNALS:
        groups = [pid for pid in groups if zygote.signal(pid, signum)]
        deadline = time.monotonic() + grace
        while groups and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
            zygote.reap()
            groups = [pid for pid in groups if zygote.signal(pid, 0)]


def start(fd: int) -> bytes | None:
    """Run a zygote on a socket; return a script in each child, and None at the end."""
    import socket

    for name in PRELOADED:
        try:
            __import__(name)
        except ImportError:
            pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    try:
        serve(Zygote(sock))
    except Script as script:
        found: bytes = script.args[0]
        return found
    return None


def run_script(script: bytes) -> int:
    """Run a script as `__main__`; return the exit status of a Python that runs it."""
    module: Any = type(sys)("__main__")
    module.__builtins__ = __builtins__
    sys.modules["__main__"] = module
    sys.argv[:] = [""]
    try:
        exec(compile(script, "<stdin>", "exec", 0, True), module.__dict__)
        status: Any = 0
    except SystemExit as e:
        status = e.code
    except BaseException as e:
        # Leave out this function's frame.
        trace = e.__traceback__ and e.__traceback__.tb_next
        sys.excepthook(type(e), e.with_traceback(trace), trace)
        status = 1
        if isinstance(e, KeyboardInterrupt):
            # As Python exits: the parent process sees the signal.
            _flush()
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
            os.kill(os.getpid(), _signal.SIGINT)
    if not isinstance(status, (int, type(None))):
        print(status, file=sys.stderr)
        status = 1
    return (status or 0) & 255


def end(status: int) -> None:
    """
    Exit as Python does, but without tearing down the objects made by the zygote: that would copy
    their memory page by page, which takes half of a short script's time.
    """
    import atexit
    import gc

    threading: Any = sys.modules.get("threading")
    if threading:
        threading._shutdown()
    atexit._run_exitfuncs()
    # Objects that write at their destruction, like open files, were created after gc.freeze().
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    os._exit(status if _flush() else status or 120)


def _flush() -> bool:
    """Flush the standard streams; return whether that succeeded."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:
            done = False
    return done


def main(fd: int) -> None:
    """Run a zygote; in each child, run the script and exit."""
    script = start(fd)
    if script is not None:
        end(run_script(script))
