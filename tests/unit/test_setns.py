"""mitogen.setns: the command line, the containers' tools, wrong options, and errors.

The tools' answers are in the formats of docker 28, lxc-info 5.0, lxc 5.0 and machinectl 252; `run`
replaces the program. Namespaces are entered in tests/integration/test_containers.py.
"""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from mitogen import parent, setns
from mitogen.bootstrap.handshake import _SEARCH, Handshake, first_stage
from mitogen.methods import connection, containers
from mitogen.setns import Error

NAME = "user@host:1"


def conn(**kwargs):
    kwargs.setdefault("container", os.getpid())
    kwargs.setdefault("kind", "pid")
    return setns.Connection(setns.Options(remote_name=NAME, **kwargs), None)


def started(monkeypatch, each):
    """Call start() without starting a process."""
    monkeypatch.setattr(connection.Connection, "start", lambda self: self.argv())
    return each.start()


def become(username="root"):
    return setns._BECOME % ascii(username)


# ---- the command line


def test_argv(monkeypatch):
    found = started(monkeypatch, conn())
    stage = become() + first_stage()
    assert found == ["nsenter", "--target", str(os.getpid()), "--root", "--wd", "--"] + [
        "sh",
        "-c",
        _SEARCH,
        stage,
        NAME,
    ]


def test_argv_has_all_options(monkeypatch):
    monkeypatch.setattr(setns, "_differing", lambda pid: list(setns.NAMESPACES))
    each = conn(username="ann", nsenter_path=pathlib.Path("/opt/nsenter"), python_path=["e", "p"])
    assert started(monkeypatch, each) == [
        *["/opt/nsenter", "--target", str(os.getpid())],
        *["--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"],
        *["e", "p", "-c", become("ann") + first_stage(), NAME],
    ]


def test_the_process_is_looked_up_once(monkeypatch):
    # start() is called again, on the broker thread, after a damaged preamble.
    asked = []
    monkeypatch.setitem(
        setns.KINDS, "lxc", ("lxc_info_path", lambda *args: asked.append(args) or os.getpid())
    )
    each = conn(kind="lxc", container="web", lxc_info_path=pathlib.Path("/l"))
    first = started(monkeypatch, each)
    assert started(monkeypatch, each) == first and first[2] == str(os.getpid())
    assert asked == [(pathlib.Path("/l"), "web")]


def test_uses_pipes_and_answers_no_prompt():
    each = conn(kind="docker", container="web")
    assert each.default_name() == "setns.web"
    assert (each.stdio, each.tty, each.err, each.eager) == ("pipe", False, True, True)
    assert each.answers() == {} and not each.is_client
    assert parent.get_connection_class("setns") is setns.Connection
    assert issubclass(setns.Connection, containers.Connection)


@pytest.mark.parametrize(
    "kwargs, why",
    [
        ({"kind": "vserver"}, "setns: kind='vserver' is not one of docker, lxc, lxd, machinec"),
        ({"container": "web"}, "setns: container='web' is not valid for kind='pid'"),
        ({"container": 0}, "setns: container=0 is not valid for kind='pid'"),
        ({"container": -1}, "setns: container=-1 is not valid"),
        ({"kind": "docker", "container": ""}, "setns: container='' is not valid for kind='docker'"),
        ({"kind": "docker", "container": "-x"}, "setns: container='-x' is not valid"),
        ({"python_path": "x", "connect_timeout": "soon"}, "soon"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(kwargs, why):
    with pytest.raises(ValueError, match=why):
        conn(**kwargs)


def test_unknown_and_missing_options_are_refused():
    with pytest.raises(TypeError, match="image"):
        conn(image="x")
    with pytest.raises(TypeError, match="kind"):
        setns.Options(container="web")


# ---- becoming the account, as the child's first act


@pytest.fixture
def account(monkeypatch):
    """Return a function that runs the code that switches accounts, and returns its calls."""
    did = []
    entry = ("ann", "x", 1000, 100, "Ann", "/home/ann", "/bin/ann")
    pwd = types.ModuleType("pwd")
    pwd.getpwnam = lambda name: did.append(name) or entry
    monkeypatch.setitem(sys.modules, "pwd", pwd)
    monkeypatch.setattr(sys, "path", ["", "relative", *sys.path])
    for name in ("initgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda *args, name=name: did.append((name, *args)))
    for name in ("HOME", "USER", "LOGNAME", "SHELL"):
        monkeypatch.setenv(name, "?")

    def run(uid, username="ann"):
        monkeypatch.setattr(os, "getuid", lambda: uid)
        exec(become(username), {})
        return did

    return run


def test_groups_first_then_the_account(account):
    assert account(0) == ["ann", ("initgroups", "ann", 100), ("setgid", 100), ("setuid", 1000)]
    assert [os.environ[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")] == [
        "/home/ann",
        "ann",
        "ann",
        "/bin/ann",
    ]
    assert all(path.startswith("/") for path in sys.path)


def test_a_process_with_the_account_keeps_its_groups(account):
    assert account(1000) == ["ann"]


def test_account_names_are_quoted(account):
    odd = "a'b\"c\\ \u20ac\udcff\n"
    assert account(1000, odd) == [odd]


def test_the_code_is_one_line_of_ascii():
    assert "\n" not in become("a\nb") and become("\u20ac").isascii()


def test_a_missing_account_is_an_error():
    each = conn(username="nix", kind="lxc", container="web")
    shake = Handshake(each.rules(), each.answers(), each.lookup())
    traceback = (
        b"Traceback (most recent call last):\nKeyError: \"getpwnam(): name not found: 'nix'\"\n"
    )
    (event,) = shake.receive("err", traceback)
    assert type(event[1]) is Error
    assert str(event[1]).startswith("setns: account 'nix' does not exist in 'web'\nTraceback")


# ---- finding the process

DOCKER = ["inspect", "--type=container", "--format={{.State.Pid}}", "web"]
LXD = "Name: web\nStatus: RUNNING\nType: container\nPID: 4711\nCreated: 2024/01/01 00:00 UTC\n"
OLD_LXD = "Name: web\nRemote: unix://\nStatus: Running\nPid: 4711\nIps:\n  eth0: inet 10.0.0.2\n"
TOOLS = {
    "docker": (setns.get_docker_pid, DOCKER, "4711\n"),
    "lxc": (setns.get_lxc_pid, ["--name", "web", "--pid", "--no-humanize"], "4711\n"),
    "lxd": (setns.get_lxd_pid, ["info", "web"], LXD),
    "lxd, as before": (setns.get_lxd_pid, ["info", "web"], OLD_LXD),
    "machinectl": (
        setns.get_machinectl_pid,
        ["show", "--property=Leader", "web"],
        "Leader=4711\n",
    ),
}


@pytest.mark.parametrize("name", TOOLS)
def test_the_output_of_each_tool_is_parsed(monkeypatch, name):
    find, args, answer = TOOLS[name]
    asked = []
    monkeypatch.setattr(setns, "_run", lambda argv: asked.append(argv) or answer)
    for path in ("/tool", pathlib.Path("/tool"), ["/tool"], ("/tool", "-x")):
        assert find(path, "web") == 4711
    assert asked == [["/tool", *args]] * 3 + [["/tool", "-x", *args]]


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("answer", ["", "0\n", "Leader=0\n", "PID: 0\n", "no\nnews\n", "-1\n"])
def test_output_without_a_process_is_an_error(monkeypatch, name, answer):
    find, args, _ = TOOLS[name]
    monkeypatch.setattr(setns, "_run", lambda argv: answer)
    with pytest.raises(Error, match="(?s)^/tool .*: no process id in the output"):
        find("/tool", "web")


def test_every_kind_has_its_option():
    options = setns.Options("web", "docker")
    assert {kind: getattr(options, option) for kind, (option, _) in setns.KINDS.items()} == {
        "docker": "docker",
        "lxc": "lxc-info",
        "lxd": "lxc",
        "machinectl": "machinectl",
    }
    assert options.username == "root"


class Program:
    """A fake of subprocess.Popen and its result."""

    pid = 0x7FFFFFF1
    returncode = 0

    def __init__(self, out=b"", err=b"", status=0, error=None):
        self.answer = out, err
        self.status = status
        self.error = error

    def __call__(self, argv, **kwargs):
        assert kwargs["env"]["LC_ALL"] == "C" and kwargs["start_new_session"]
        self.argv = argv
        return self

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def communicate(self, timeout):
        assert timeout == setns.TOOL_TIMEOUT
        if self.error:
            raise self.error
        self.returncode = self.status
        return self.answer


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs a Program, and returns the killed groups and the result."""

    def run(program):
        killed = []
        monkeypatch.setattr(os, "killpg", lambda *args: killed.append(args))
        monkeypatch.setattr(subprocess, "Popen", program)
        try:
            return killed, setns._run(["tool", "x"])
        except BaseException as e:
            return killed, e

    return run


def test_run_returns_the_output(run):
    assert run(Program(b"4711\xff\n", b"warning\n")) == ([], "4711\ufffd\n")


def test_run_raises_if_the_program_fails(run):
    killed, error = run(Program(b"out", b"No such object: web\n", 1))
    assert not killed and type(error) is Error
    assert str(error) == "tool x: exited with status 1\nNo such object: web\nout"


def test_run_kills_a_program_that_hangs(run):
    killed, error = run(Program(error=subprocess.TimeoutExpired("tool", 30)))
    assert killed == [(Program.pid, 9)]
    assert type(error) is Error and "tool x: no answer within 30 seconds" in str(error)


def test_run_kills_the_program_on_an_interrupt(run):
    killed, error = run(Program(error=KeyboardInterrupt()))
    assert killed == [(Program.pid, 9)] and type(error) is KeyboardInterrupt


def test_run_raises_if_the_program_is_missing():
    with pytest.raises(Error, match="cannot start /nonexistent/docker: .*; check that it is"):
        setns.get_docker_pid("/nonexistent/docker", "web")
    with pytest.raises(Error, match="cannot start docker: .*null byte"):
        setns.get_docker_pid("docker", "a\0b")


# ---- namespaces


def test_our_own_namespaces_do_not_differ():
    assert setns._differing(os.getpid()) == []


def test_differing_namespaces_are_in_order(monkeypatch):
    def identity(pid, name):
        return (4, (pid == 7 and name in ("mnt", "user", "pid")) or 9)

    monkeypatch.setattr(setns, "_identity", identity)
    assert setns._differing(7) == ["user", "mnt", "pid"]


@pytest.mark.parametrize(
    "error, why",
    [
        (FileNotFoundError(2, "x"), "process 7 does not exist"),
        (
            PermissionError(13, "x"),
            "process 7: no permission to see its namespaces; this needs root",
        ),
    ],
)
def test_a_process_that_cannot_be_read_is_an_error(monkeypatch, error, why):
    def identity(pid, name):
        raise error

    monkeypatch.setattr(setns, "_identity", identity)
    with pytest.raises(Error) as caught:
        setns._differing(7)
    assert str(caught.value) == why and caught.value.__cause__ is error


def test_nothing_is_started_for_a_missing_process(monkeypatch):
    each = conn(container=0x7FFFFFF1)
    with pytest.raises(Error, match="process 2147483633 does not exist"):
        started(monkeypatch, each)


def test_setns_raises_for_other_files():
    with open(os.devnull) as null, pytest.raises(Error, match=r"setns\(net\): .*Invalid argument"):
        setns.setns("net", null.fileno())


class LibC:
    """A fake of ctypes and of the result of ctypes.CDLL()."""

    def __init__(self, result):
        self.setns = lambda fd, kind: -1 if result else 0
        self.CDLL = lambda name, use_errno: self
        self.get_errno = lambda: result


@pytest.mark.parametrize("number", [0, 1])
def test_setns_before_python_3_12(monkeypatch, number):
    monkeypatch.delattr(os, "setns", raising=False)
    monkeypatch.setitem(sys.modules, "ctypes", LibC(number))
    if number:
        with pytest.raises(Error, match=r"setns\(net\): .*not permitted"):
            setns.setns("net", 5)
    else:
        setns.setns("net", 5)


def test_setns_uses_os_setns(monkeypatch):
    given = []
    monkeypatch.setattr(os, "setns", given.append, raising=False)
    setns.setns("net", 5)
    assert given == [5]
