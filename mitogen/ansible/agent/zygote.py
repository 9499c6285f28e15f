"""
A warm interpreter that runs scripts: one process with one thread, which splits off a child for each
script that a Python reading its standard input would have run.

It is a program of its own, given to an interpreter by runner.py, and imports nothing of mitogen.
Frames on its socket are a length (4 bytes, big-endian) and what marshal makes of a tuple; the
descriptors 0, 1 and 2 of a script come along with its frame (SCM_RIGHTS).

    to it       ("run", number, script, env, cwd); ("kill", number)
    from it     ("pid", number, pid); ("exit", number, status of waitpid(2))

Rules
    1. A child finds what a Python that was just started would: modules, `__main__`, arguments,
       descriptors, signals, random numbers, time zone. What cannot be made so (the locale, what
       PYTHON* variables say) is not given to a zygote at all.
    2. `ansible.module_utils` is imported ahead from the first script's zip. A script whose zip has
       other bytes for any of these modules runs in a child that has forgotten them all.
    3. Each child leads a session and a group. Should the socket end, all groups are ended.

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

#: A zip in base64 within a script: the first bytes of a local file header, and no less than that.
ZIP = re.compile(rb"UEsDB[A-Za-z0-9+/]{2000,}={0,2}")
#: Modules that a script most likely imports first, and which are the same for all.
AHEAD = (
    "base64 shutil tempfile runpy json datetime time pwd grp stat subprocess platform shlex "
    "traceback types copy errno fcntl hashlib locale random selectors signal syslog uuid glob "
    "grp atexit functools collections contextlib dataclasses enum typing inspect ast string "
    "struct socket"
).split()
#: What the process between the zygote and a script does not end by.
OUTLIVED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
#: Zips whose modules were compared with those imported ahead.
KEPT = 256
#: What ends children at the end, and the seconds that they have then. The first is an exception to
#: a Python, which removes its temporary files.
ENDINGS = ((_signal.SIGINT, 0.5), (_signal.SIGTERM, 0.5), (_signal.SIGKILL, 0))


class ZipPackages:
    """
    The `__path__` of a package that was imported ahead from a zip: that zip is gone, and those that
    a script has put on sys.path since take its place.

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
        """As pkgutil.extend_path() does; there is nothing to extend."""


class Zygote:
    """
    :param sock: the socket to who has started it
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.buffer = b""
        self.fds: list[int] = []
        self.pids: dict[int, int] = {}
        #: What Python has set by itself, having found no locale (PEP 538).
        self.coerced = os.environ.get("LC_CTYPE")
        #: CRC-32 of each module's source that was imported ahead, by its name within a zip.
        self.sources: dict[str, int] = {}
        #: Whether a zip, by the CRC-32 of its base64, agrees with these.
        self.agrees: dict[Any, bool] = {}

    # -- frames

    def send(self, *fields: Any) -> None:
        data = marshal.dumps(fields)
        try:
            self.sock.sendall(len(data).to_bytes(4, "big") + data)
        except OSError:
            # The next recv() says so too.
            pass

    def receive(self) -> bool:
        """Take in what has come; return False at the end."""
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

    # -- what it is told

    def run(self, number: int, script: bytes, env: dict[str, str], cwd: str) -> None:
        """Split off a child for a script."""
        fds, self.fds = self.fds[:3], self.fds[3:]
        warm = self._is_warm(script)
        if hasattr(gc, "freeze"):
            # Or the first collection in a child would copy all that there is.
            gc.freeze()
        pid = os.fork()
        if not pid:
            self._become(script, env, cwd, fds, warm)
        self.pids[pid] = number
        for fd in fds:
            os.close(fd)
        self.send("pid", number, pid)

    def kill(self, number: int) -> None:
        """End a script, and what it has started."""
        for pid, each in self.pids.items():
            if each == number:
                self._end(pid, _signal.SIGKILL)

    def _end(self, pid: int, signum: int) -> bool:
        """Send a signal to a script's group; return whether there is anybody."""
        try:
            os.killpg(pid, signum)
            return True
        except OSError:
            if pid not in self.pids:
                return False
        # It has not become a leader yet, or has just ended.
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

    # -- modules imported ahead

    def _is_warm(self, script: bytes) -> bool:
        """Return whether a script may run with the modules that were imported ahead."""
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
                self._import_ahead(data, archive)
            if len(self.agrees) >= KEPT:
                self.agrees.clear()
            self.agrees[key] = all(
                self.sources.get(info.filename, info.CRC) == info.CRC for info in archive.infolist()
            )
        return self.agrees[key]

    def _import_ahead(self, data: bytes, archive: Any) -> None:
        """Import `ansible.module_utils` from a zip, so that no child has to."""
        import tempfile

        names = {info.filename: info.CRC for info in archive.infolist()}
        before = set(sys.modules)
        # Should this process be killed meanwhile, nobody would remove one that has a name.
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
                module.__path__ = ZipPackages(inside)  # type: ignore[assignment]  # as one of its own

    @staticmethod
    def _import(name: str) -> None:
        fullname = name[:-3].replace("/", ".")
        if fullname.endswith(".__init__"):
            fullname = fullname[:-9]
        if "respawn" in fullname or "_extensions" in fullname:
            return
        streams = sys.stdout, sys.stderr
        # What it says is not for a script that comes later, whose buffers are copies of these.
        sys.stdout = sys.stderr = io.StringIO()
        try:
            __import__(fullname)
        except BaseException:
            # What it needs may not be here. It is looked for again by who wants it.
            sys.modules.pop(fullname, None)
        finally:
            sys.stdout, sys.stderr = streams

    # -- a child

    def _become(
        self, script: bytes, env: dict[str, str], cwd: str, fds: list[int], warm: bool
    ) -> NoReturn:
        """In the child: be a Python that reads `script` from its standard input; never returns."""
        _signal.pthread_sigmask(_signal.SIG_BLOCK, OUTLIVED)
        os.setsid()
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        self.sock.close()
        # As below a shell: it leads neither a session nor a group, and may make its own.
        pid = os.fork()
        if pid:
            # What ends the group is for the script, which may take its time over it.
            for number in OUTLIVED:
                _signal.signal(number, _signal.SIG_IGN)
            _end_as(os.waitpid(pid, 0)[1])
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, OUTLIVED)
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        os.closerange(3, 4096 if not hasattr(os, "sysconf") else max(3, _most_open()) + 1)
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
        _forget()
        raise Script(script)


def _end_as(status: int) -> NoReturn:
    """End as another process has ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, OUTLIVED)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _most_open() -> int:
    try:
        return max(int(name) for name in os.listdir("/proc/self/fd"))
    except (OSError, ValueError):
        return 1024


def _forget() -> None:
    """Forget what a new process would find out for itself."""
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
    """Carries a child's script out of the zygote's own frames."""


HANDLERS: dict[str, Any] = {"run": Zygote.run, "kill": Zygote.kill}


def serve(zygote: Zygote) -> None:
    """Serve until the socket's end; in a child, raise Script."""
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
    _end_all(zygote)


def _end_all(zygote: Zygote) -> None:
    import time

    # A group may be there yet when its leader has ended.
    groups = list(zygote.pids)
    for signum, grace in ENDINGS:
        groups = [pid for pid in groups if zygote._end(pid, signum)]
        deadline = time.monotonic() + grace
        while groups and time.monotonic() < deadline:
            select.select([], [], [], 0.02)
            zygote.reap()
            groups = [pid for pid in groups if zygote._end(pid, 0)]


def start(fd: int) -> bytes | None:
    """Be a zygote on a socket; return a script in each child, and None at the end."""
    import socket

    for name in AHEAD:
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
    """Run a script as `__main__`; return the exit status that a Python would end with."""
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
        # Without our own frame.
        trace = e.__traceback__ and e.__traceback__.tb_next
        sys.excepthook(type(e), e.with_traceback(trace), trace)
        status = 1
        if isinstance(e, KeyboardInterrupt):
            # As Python ends: whoever waits is to know what it was.
            _flush()
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
            os.kill(os.getpid(), _signal.SIGINT)
    if not isinstance(status, (int, type(None))):
        print(status, file=sys.stderr)
        status = 1
    return (status or 0) & 255


def end(status: int) -> None:
    """
    End the process as Python does, but for taking apart what the zygote has made: that would copy
    all of it, page by page, and is half of a short script's time.
    """
    import atexit
    import gc

    threading: Any = sys.modules.get("threading")
    if threading:
        threading._shutdown()
    atexit._run_exitfuncs()
    # What only its end writes, as an open file does, was made since gc.freeze().
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    os._exit(status if _flush() else status or 120)


def _flush() -> bool:
    """Write what is buffered; return whether that could be done."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except Exception:
            done = False
    return done


def main(fd: int) -> None:
    """Be a zygote; in each child, what the script makes of it."""
    script = start(fd)
    if script is not None:
        end(run_script(script))
