"""
Connection method `setns`: the namespaces of a process of this machine, a container's for instance,
entered without the container's own tool having a hand in it: see namespaces(7).

Rules
    1. No code of ours runs between fork and exec, and none in the namespaces but the child's own:
       nsenter(1) enters them. It is one exec and 1 ms, is part of util-linux and of busybox, and
       makes the second process that a PID namespace needs. A helper in Python would take another
       start of an interpreter, and ctypes before 3.12, which a minimal Python is without.
    2. The account is the container's: the child's interpreter becomes it as its first act, when
       the account database is the one in there.
    3. Entered is what differs from ours of mnt, uts, ipc, net, pid and user, and the root
       directory; never the cgroup: the child is counted where it was started.

The environment is this process', but for HOME, USER, LOGNAME and SHELL.

Threads: any; finding the process waits for the tool that knows it.
"""

from __future__ import annotations

import os
import re
import signal

from mitogen.bootstrap import handshake
from mitogen.bootstrap.handshake import Rule
from mitogen.core import StreamError
from mitogen.methods import connection, containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Union

    from mitogen.bootstrap.spawn import Process
    from mitogen.methods.containers import Rules

    Path = Union[str, "os.PathLike[str]", Sequence[str]]

__all__ = [
    "Connection",
    "Error",
    "Options",
    "get_docker_pid",
    "get_lxc_pid",
    "get_lxd_pid",
    "get_machinectl_pid",
    "setns",
]

#: Seconds that the tool which knows the process may take.
TOOL_TIMEOUT = 30.0
#: What is entered: the name in /proc/<pid>/ns to nsenter's.
NAMESPACES = {
    "user": "user",
    "mnt": "mount",
    "uts": "uts",
    "ipc": "ipc",
    "net": "net",
    "pid": "pid",
}

# One line; it must compile on Python 2.7, for the first stage to say which one it is. Nothing is
# imported from the current directory. Who is that account already keeps its groups: a user
# namespace may forbid setgroups(2).
_BECOME = (
    'import sys;sys.path[:]=[p for p in sys.path if p[:1]=="/"];import os,pwd;'
    "p=pwd.getpwnam(%s);"
    "p[2]==os.getuid()or(os.initgroups(p[0],p[3]),os.setgid(p[3]),os.setuid(p[2]));"
    "os.environ.update(HOME=p[5],USER=p[0],LOGNAME=p[0],SHELL=p[6]);"
)


class Error(StreamError):
    """There is no such process, or its namespaces can't be entered."""


# ---- who is it


def _run(argv: list[str]) -> str:
    """Return what a program prints."""
    import subprocess

    try:
        proc = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=dict(os.environ, LC_ALL="C"),
        )
    except (OSError, ValueError) as e:
        raise Error("cannot start %s: %s; is it installed, and the path right?", argv[0], e) from e
    with proc:
        try:
            out, err = proc.communicate(timeout=TOOL_TIMEOUT)
        except BaseException as e:
            # With all that it has started: they have the pipes open.
            os.killpg(proc.pid, signal.SIGKILL)
            if not isinstance(e, subprocess.TimeoutExpired):
                raise
            raise Error("%s: no answer within %d seconds", " ".join(argv), TOOL_TIMEOUT) from e
    if proc.returncode:
        said = (err + out).decode("utf-8", "replace").strip()
        raise Error("%s: exited with status %d\n%s", " ".join(argv), proc.returncode, said)
    return out.decode("utf-8", "replace")


def _program(path: Path) -> list[str]:
    return [os.fspath(path)] if isinstance(path, (str, os.PathLike)) else [*map(os.fspath, path)]


def _find_pid(path: Path, args: list[str], pattern: str) -> int:
    argv = _program(path) + args
    said = _run(argv)
    found = re.search(pattern, said, re.IGNORECASE | re.MULTILINE)
    if not found or not int(found.group(1)):
        raise Error("%s: names no process; does it run?\n%s", " ".join(argv), said.strip())
    return int(found.group(1))


def get_docker_pid(path: Path, name: str) -> int:
    """
    Return the process id of a docker container's first process.

    :param path: str, path or list of words: docker(1)
    :param str name: name or id of the container
    :raises Error: there is no such container, or it does not run
    """
    args = ["inspect", "--type=container", "--format={{.State.Pid}}", name]
    return _find_pid(path, args, r"^(\d+)$")


def get_lxc_pid(path: Path, name: str) -> int:
    """The same for LXC; `path` is lxc-info(1)'s."""
    return _find_pid(path, ["--name", name, "--pid", "--no-humanize"], r"^(\d+)$")


def get_lxd_pid(path: Path, name: str) -> int:
    """The same for LXD; `path` is lxc(1)'s."""
    return _find_pid(path, ["info", name], r"^\s*pid:\s*(\d+)\s*$")


def get_machinectl_pid(path: Path, name: str) -> int:
    """The same for systemd-nspawn and what else machinectl(1) knows, whose path is `path`."""
    return _find_pid(path, ["show", "--property=Leader", name], r"^Leader=(\d+)$")


#: Kind to the option with its tool's path, and who asks it.
KINDS = {
    "docker": ("docker_path", get_docker_pid),
    "lxc": ("lxc_info_path", get_lxc_pid),
    "lxd": ("lxc_path", get_lxd_pid),
    "machinectl": ("machinectl_path", get_machinectl_pid),
}


def _identity(pid: object, name: str) -> tuple[int, int]:
    found = os.stat("/proc/%s/ns/%s" % (pid, name))
    return found.st_dev, found.st_ino


def _differing(pid: int) -> list[str]:
    """Return those of NAMESPACES that a process does not share with this one."""
    known = [name for name in NAMESPACES if os.path.exists("/proc/self/ns/" + name)]
    try:
        return [name for name in known if _identity(pid, name) != _identity("self", name)]
    except FileNotFoundError as e:
        raise Error("there is no process %d", pid) from e
    except PermissionError as e:
        raise Error("process %d: its namespaces can't be seen; are you root?", pid) from e


def setns(kind: str, fd: int) -> None:
    """
    Move the calling thread into a namespace: see setns(2).

    :param str kind: "net", "mnt", ..., for the error
    :param int fd: descriptor of a file in /proc/<pid>/ns
    :raises Error: it could not be done
    """
    try:
        if hasattr(os, "setns"):
            os.setns(fd)
        else:
            import ctypes

            if ctypes.CDLL(None, use_errno=True).setns(int(fd), 0):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
    except (OSError, ImportError, AttributeError) as e:
        raise Error("setns(%s): %s", kind, e) from e


# ---- the method


class Options(connection.Options):
    """
    Besides connection.Options:

    :param container: str: name of the container; for kind "pid" a process id, int or str
    :param str kind: "docker", "lxc", "lxd", "machinectl", or "pid"
    :param str username: whose account in there
    :param docker_path: docker(1), or podman(1); like the other programs str, path or list of words
    :param lxc_path: lxc(1), which is LXD's
    :param lxc_info_path: lxc-info(1)
    :param machinectl_path: machinectl(1)
    :param nsenter_path: nsenter(1)
    :raises ValueError: there is no such kind, or `container` is no name
    """

    tty = False
    prompts = ()

    def __init__(
        self,
        container: Any,
        kind: str,
        username: str = "root",
        docker_path: Path = "docker",
        lxc_path: Path = "lxc",
        lxc_info_path: Path = "lxc-info",
        machinectl_path: Path = "machinectl",
        nsenter_path: Path = "nsenter",
        **kwargs: Any,
    ) -> None:
        connection.Options.__init__(self, **kwargs)
        known = sorted([*KINDS, "pid"])
        if kind not in known:
            raise ValueError("setns: kind=%r is not one of %s" % (kind, ", ".join(known)))
        self.container = str(container)
        digits = self.container.isdigit() and int(self.container) > 0
        if not digits if kind == "pid" else self.container[:1] in ("", "-"):
            raise ValueError("setns: container=%r is no name for kind=%r" % (container, kind))
        self.kind = kind
        self.username = username or "root"
        self.docker_path = docker_path
        self.lxc_path = lxc_path
        self.lxc_info_path = lxc_info_path
        self.machinectl_path = machinectl_path
        self.nsenter_path = nsenter_path

    def find_pid(self) -> int:
        """Return the process id; asks the tool that knows it."""
        if self.kind == "pid":
            return int(self.container)
        option, find = KINDS[self.kind]
        return find(getattr(self, option), self.container)


class Connection(containers.Connection):
    """An nsenter."""

    options_class = Options

    def __init__(self, options: Any, router: Any) -> None:
        containers.Connection.__init__(self, options, router)
        self.pid: int | None = None
        self.namespaces: list[str] = []

    def find(self) -> None:
        """Find the process, unless it is known."""
        if self.pid is None:
            pid = self.options.find_pid()
            self.namespaces = _differing(pid)
            self.pid = pid

    def start(self) -> Process:
        """Find the process, and start the child's."""
        self.find()
        return containers.Connection.start(self)

    def get_boot_command(self) -> list[str]:
        """Return the argument list that becomes the account and starts the first stage."""
        stage = handshake.first_stage()
        become = _BECOME % ascii(self.options.username)
        boot = containers.Connection.get_boot_command(self)
        return [become + stage if word == stage else word for word in boot]

    def argv(self) -> list[str]:
        """Return the argument list to run here. Pure, once the process is known."""
        flags = ["--" + NAMESPACES[name] for name in self.namespaces]
        # Without --wd the working directory would stay outside, and with it the way there.
        nsenter = [*_program(self.options.nsenter_path), "--target", str(self.pid)]
        return [*nsenter, *flags, "--root", "--wd", "--", *self.get_boot_command()]

    def rules(self) -> Rules:
        """Return what may be said before the child is there: channel to list of Rule."""
        options = self.options
        unknown = "setns: there is no account %r in %r" % (options.username, options.container)
        return {"err": [Rule(rb"getpwnam\(\)[^\n]*not found", error=(Error, unknown))]}

    def answers(self) -> dict[str, str | None]:
        """Nothing is asked."""
        return {}

    def default_name(self) -> str:
        """Return the context's name where none was given."""
        return "setns.%s" % self.options.container
