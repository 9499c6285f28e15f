"""
Connection method `setns`: the namespaces of a process of this machine, such as a container's,
entered without the container's own tool: see namespaces(7).

Rules
    1. No Python code runs between fork and exec, and only the child's own code in the namespaces:
       nsenter(1) enters them. It takes one exec and 1 ms, is part of util-linux and of busybox, and
       creates the second process that a PID namespace requires. A helper in Python would need
       another start of an interpreter, and before 3.12 ctypes, which a minimal Python lacks.
    2. The account is the container's: the child's interpreter switches to it first of all, with
       the account database of the container.
    3. The namespaces entered are those of mnt, uts, ipc, net, pid and user that differ from this
       process's, and the root directory; never the cgroup, so the child is accounted for where it
       was started.

The environment is this process's, except for HOME, USER, LOGNAME and SHELL.

Threads: any; finding the process waits for the container's tool.
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

#: Seconds that a container's tool may take to answer.
TOOL_TIMEOUT = 30.0
#: Namespaces to enter: name in /proc/<pid>/ns to name in nsenter's options.
NAMESPACES = {
    "user": "user",
    "mnt": "mount",
    "uts": "uts",
    "ipc": "ipc",
    "net": "net",
    "pid": "pid",
}

# One line; it must compile on Python 2.7, so that the first stage can report the version. Nothing
# is imported from the current directory. A process that has the account already keeps its groups: a
# user namespace may forbid setgroups(2).
_BECOME = (
    'import sys;sys.path[:]=[p for p in sys.path if p[:1]=="/"];import os,pwd;'
    "p=pwd.getpwnam(%s);"
    "p[2]==os.getuid()or(os.initgroups(p[0],p[3]),os.setgid(p[3]),os.setuid(p[2]));"
    "os.environ.update(HOME=p[5],USER=p[0],LOGNAME=p[0],SHELL=p[6]);"
)


class Error(StreamError):
    """The process does not exist, or its namespaces can't be entered."""


# ---- finding the process


def _shown(argv: list[str]) -> str:
    return " ".join(connection.censored(argv))


def _run(argv: list[str]) -> str:
    """Run a program and return its output."""
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
        raise Error(
            "cannot start %s: %s; check that it is installed and the path is right", argv[0], e
        ) from e
    with proc:
        try:
            out, err = proc.communicate(timeout=TOOL_TIMEOUT)
        except BaseException as e:
            # The whole group: all its processes have the pipes open.
            os.killpg(proc.pid, signal.SIGKILL)
            if not isinstance(e, subprocess.TimeoutExpired):
                raise
            raise Error("%s: no answer within %d seconds", _shown(argv), TOOL_TIMEOUT) from e
    if proc.returncode:
        output = (err + out).decode("utf-8", "replace").strip()
        raise Error(
            "%s: exited with status %d\n%s",
            _shown(argv),
            proc.returncode,
            output,
        )
    return out.decode("utf-8", "replace")


def _program(path: Path) -> list[str]:
    return [os.fspath(path)] if isinstance(path, (str, os.PathLike)) else [*map(os.fspath, path)]


def _find_pid(path: Path, args: list[str], pattern: str) -> int:
    argv = _program(path) + args
    output = _run(argv)
    found = re.search(pattern, output, re.IGNORECASE | re.MULTILINE)
    if not found or not int(found.group(1)):
        text = "%s: no process id in the output; check that the container is running\n%s"
        raise Error(text, _shown(argv), output.strip())
    return int(found.group(1))


def get_docker_pid(path: Path, name: str) -> int:
    """
    Return the pid of a docker container's first process.

    :param path: str, path or list of words: docker(1)
    :param str name: name or id of the container
    :raises Error: the container does not exist or is not running
    """
    args = ["inspect", "--type=container", "--format={{.State.Pid}}", name]
    return _find_pid(path, args, r"^(\d+)$")


def get_lxc_pid(path: Path, name: str) -> int:
    """Return the pid of an LXC container's first process; `path` is that of lxc-info(1)."""
    return _find_pid(path, ["--name", name, "--pid", "--no-humanize"], r"^(\d+)$")


def get_lxd_pid(path: Path, name: str) -> int:
    """Return the pid of an LXD instance's first process; `path` is that of lxc(1)."""
    return _find_pid(path, ["info", name], r"^\s*pid:\s*(\d+)\s*$")


def get_machinectl_pid(path: Path, name: str) -> int:
    """Return the pid of the leader of a machine of machinectl(1), whose path is `path`."""
    return _find_pid(path, ["show", "--property=Leader", name], r"^Leader=(\d+)$")


#: Kind to the option with its tool's path, and the function that finds the pid.
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
    """Return those of NAMESPACES in which a process differs from this one."""
    known = [name for name in NAMESPACES if os.path.exists("/proc/self/ns/" + name)]
    try:
        return [name for name in known if _identity(pid, name) != _identity("self", name)]
    except FileNotFoundError as e:
        raise Error("process %d does not exist", pid) from e
    except PermissionError as e:
        raise Error("process %d: no permission to see its namespaces; this needs root", pid) from e


def setns(kind: str, fd: int) -> None:
    """
    Move the calling thread into a namespace: see setns(2).

    :param str kind: "net", "mnt", ..., for the error message
    :param int fd: descriptor of a file in /proc/<pid>/ns
    :raises Error: the system call failed
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
    In addition to connection.Options:

    :param container: str: name of the container; for kind "pid" a process id, int or str
    :param str kind: "docker", "lxc", "lxd", "machinectl", or "pid"
    :param str username: account in the container
    :param docker_path: docker(1) or podman(1); like the other programs a str, path or list of words
    :param lxc_path: lxc(1), the client of LXD
    :param lxc_info_path: lxc-info(1)
    :param machinectl_path: machinectl(1)
    :param nsenter_path: nsenter(1)
    :raises ValueError: the kind is unknown, or `container` is not a valid name
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
            raise ValueError("setns: container=%r is not valid for kind=%r" % (container, kind))
        self.kind = kind
        self.username = username or "root"
        self.docker_path = docker_path
        self.lxc_path = lxc_path
        self.lxc_info_path = lxc_info_path
        self.machinectl_path = machinectl_path
        self.nsenter_path = nsenter_path

    def find_pid(self) -> int:
        """Return the process id, found by the container's tool."""
        if self.kind == "pid":
            return int(self.container)
        option, find = KINDS[self.kind]
        return find(getattr(self, option), self.container)


class Connection(containers.Connection):
    """An nsenter process."""

    options_class = Options

    def __init__(self, options: Any, router: Any) -> None:
        containers.Connection.__init__(self, options, router)
        self.pid: int | None = None
        self.namespaces: list[str] = []

    def find(self) -> None:
        """Find the process, if not done yet."""
        if self.pid is None:
            pid = self.options.find_pid()
            self.namespaces = _differing(pid)
            self.pid = pid

    def start(self) -> Process:
        """Find the process, and start the child."""
        self.find()
        return containers.Connection.start(self)

    def get_boot_command(self) -> list[str]:
        """Return the argument list that switches to the account and starts the first stage."""
        stage = handshake.first_stage()
        become = _BECOME % ascii(self.options.username)
        boot = containers.Connection.get_boot_command(self)
        return [become + stage if word == stage else word for word in boot]

    def argv(self) -> list[str]:
        """Return the argument list to run here. Pure, once the process has been found."""
        flags = ["--" + NAMESPACES[name] for name in self.namespaces]
        # Without --wd the working directory would stay outside, and give access to the outside.
        nsenter = [*_program(self.options.nsenter_path), "--target", str(self.pid)]
        return [*nsenter, *flags, "--root", "--wd", "--", *self.get_boot_command()]

    def rules(self) -> Rules:
        """Return the Rules for messages before the child runs, by channel name."""
        options = self.options
        unknown = "setns: account %r does not exist in %r" % (options.username, options.container)
        return {"err": [Rule(rb"getpwnam\(\)[^\n]*not found", error=(Error, unknown))]}

    def answers(self) -> dict[str, str | None]:
        """Return no answers: there are no prompts."""
        return {}

    def default_name(self) -> str:
        """Return the context's name if none was given."""
        return "setns.%s" % self.options.container
