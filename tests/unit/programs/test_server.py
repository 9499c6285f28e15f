"""The target's half of a program: requests, and how programs are ended. No program is started."""

import os
import pwd
import signal
from types import SimpleNamespace

import pytest

from mitogen.programs import client, server as programs
from tests.unit import nodes

ACCOUNT = SimpleNamespace(pw_dir="/home/someone", pw_shell="/bin/sh")


@pytest.fixture
def account(monkeypatch):
    """Return the account's entry in passwd(5), which tests change."""
    entry = SimpleNamespace(**vars(ACCOUNT))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    monkeypatch.delenv("HOME", raising=False)
    return entry


def test_home_is_taken_from_the_environment_then_from_passwd(account, monkeypatch, tmp_path):
    account.pw_dir = str(tmp_path)
    assert programs.home() == str(tmp_path)
    monkeypatch.setenv("HOME", "/usr")
    assert programs.home() == "/usr"
    for wrong in ("", "relative", "/no/such/directory", "/etc/passwd"):
        monkeypatch.setenv("HOME", wrong)
        assert programs.home() == str(tmp_path)
    account.pw_dir = "/nonexistent"
    assert programs.home() == "/"


def test_an_account_without_an_entry(monkeypatch):
    def getpwuid(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.delenv("HOME", raising=False)
    assert (programs.home(), programs.login_shell()) == ("/", "/bin/sh")


@pytest.mark.parametrize(
    "shell", ["/usr/sbin/nologin", "/bin/false", "/sbin/nologin", "", "/no/such", "/etc/passwd"]
)
def test_a_login_shell_that_runs_no_commands(shell, account):
    account.pw_shell = shell
    assert programs.login_shell() == "/bin/sh"


def test_a_login_shell(account):
    account.pw_shell = "/bin/bash"
    assert programs.login_shell() == "/bin/bash"
    assert programs.command_of({"kind": "command", "args": "x y"}) == (
        ["bash", "-c", "x y"],
        "/bin/bash",
    )
    assert programs.command_of({"kind": "shell"}) == (["-bash"], "/bin/bash")
    assert programs.command_of({"kind": "argv", "args": ["x", "y"]}) == (["x", "y"], None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Subsystem sftp {path}\n", True),
        ("subsystem\tSFTP  {path} -l INFO\n", True),
        ("#Subsystem sftp {path}\n", False),
        ("Subsystem sftp internal-sftp\n", False),
        ("Subsystem other {path}\n", False),
        ("Subsystem sftp /no/such/server\n", False),
        ("Subsystem sftp\n", False),
        ("", False),
    ],
)
def test_the_sftp_server_of_sshd_config(text, found, tmp_path, monkeypatch):
    server = tmp_path / "server"
    server.write_text("")
    server.chmod(0o755)
    config = tmp_path / "sshd_config"
    config.write_bytes(text.format(path=server).encode() + b"\xff\n")
    monkeypatch.setattr(programs, "SSHD_CONFIG", str(config))
    monkeypatch.setattr(programs, "SFTP_SERVERS", ())
    assert programs.find_sftp_server() == (str(server) if found else None)


def test_no_sshd_config(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "SSHD_CONFIG", str(tmp_path / "none"))
    usual = tmp_path / "usual"
    usual.write_text("")
    monkeypatch.setattr(programs, "SFTP_SERVERS", (str(tmp_path), str(usual)))
    assert programs.find_sftp_server() is None, "a directory, and a file that is not executable"
    usual.chmod(0o755)
    assert programs.find_sftp_server() == str(usual)


def test_the_environment_of_a_program(account, monkeypatch):
    monkeypatch.setattr(os, "environ", {"A": "1"})
    assert programs.environment({}) == {"A": "1", "HOME": "/", "SHELL": "/bin/sh"}
    assert programs.environment({"add_env": {"A": "2"}})["A"] == "2"
    assert programs.environment({"env": {}}) == {}
    assert programs.environment({"env": {"B": "3"}, "add_env": {"C": "4"}}) == {"B": "3", "C": "4"}


# ---- specs made by programs/client.py


@pytest.mark.parametrize(
    ("args", "kind", "sent"),
    [
        (["a", b"b"], "argv", ["a", b"b"]),
        ("a b", "command", "a b"),
        (b"a b", "command", b"a b"),
        (None, "shell", None),
        (client.Subsystem("sftp"), "subsystem", "sftp"),
        (client.Connect("host", 22), "connect", ["host", 22]),
        (iter(["a"]), "argv", ["a"]),
    ],
)
def test_kinds_of_args(args, kind, sent):
    spec = client.spec_of(args, None, None, None, None, False)
    assert (spec["kind"], spec["args"]) == (kind, sent)
    assert set(spec) == {"kind", "args", "window"}


def test_options():
    pty = client.Pty("vt100", 10, 20, 30, 40, b"\0")
    spec = client.spec_of("x", {"A": "1"}, {"B": "2"}, "/tmp", pty, True)
    assert spec["env"] == {"A": "1"} and spec["add_env"] == {"B": "2"} and spec["cwd"] == "/tmp"
    assert spec["pty"] == {"term": "vt100", "size": [10, 20, 30, 40], "modes": b"\0"}
    assert spec["merge"] and spec["window"] == 65536
    assert client.spec_of(client.Subsystem("x", True), None, None, None, None, False)["builtin"]


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ([], ValueError, "args is empty"),
        (["a", 1], TypeError, r"args\[1\]: expected str, bytes or os.PathLike, not int"),
        (7, TypeError, "int"),
    ],
)
def test_invalid_args(args, error, text):
    with pytest.raises(error, match=text):
        client.spec_of(args, None, None, None, None, False)


def test_signal_names_and_return_codes():
    assert client._returncode(3, None) == 3
    assert client._returncode(None, "TERM") == -signal.SIGTERM
    assert client._returncode(None, "35") == -35
    assert client._returncode(None, "NONSENSE") == -127
    assert programs._signal_name(int(signal.SIGUSR1)) == "USR1"
    assert programs._signal_name(4711) == "4711"


# ---- how a program ends


class Endpoint:
    """A reader or writer that only records its closing."""

    limit = 0
    fd = 0

    def __init__(self):
        self.closed = False

    def start(self, *args):
        self.args = args

    def resume(self):
        pass

    pause = finish = end = resume

    def close(self):
        self.closed = True


class FakeProgram:
    """A program in memory. The object is also its process."""

    pid = 4711

    def __init__(self, net, monkeypatch, tty=False):
        self.master, self.child = net.line(2)
        self.net = net
        self.signals, self.reaped = [], 0
        monkeypatch.setattr(programs.os, "killpg", lambda pid, number: self.signals.append(number))
        monkeypatch.setattr(programs._thread, "start_new_thread", lambda *args: None)
        monkeypatch.setattr(programs.Guard, "start", lambda guard: None)
        started = programs.Started(Endpoint(), Endpoint(), None if tty else Endpoint(), self)
        for kind in ("start_on_pipes", "_start_on_tty"):
            monkeypatch.setattr(programs, kind, lambda router, spec: started)
        monkeypatch.setitem(programs.KINDS, "argv", programs.start_on_pipes)
        self.endpoints = started
        self.inbox = self.master.inbox(1 << 31)
        spec = {"kind": "argv", "args": ["x"], "window": 100, "pty": {"term": "x"} if tty else None}
        self.program = programs.Program(
            self.child.router, self.child.context(self.master), [1 << 31, 1, 2, 3], spec
        )
        net.pump()

    def wait(self):
        self.reaped += 1

    def exit(self, *status):
        self.child.broker.defer(self.program._on_exit, list(status))
        self.net.pump()

    def close_outputs(self):
        for end in self.program.outputs:
            end.close()
        self.net.pump()

    def messages(self):
        return [msg.unpickle() for msg in self.inbox]

    def registered(self):
        return programs.guard_of(self.child.router).programs


@pytest.fixture
def net():
    with nodes.network() as net:
        yield net


def test_the_status_comes_after_both_ends_of_file(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.exit(3, None, False)
    assert fake.messages() == [] and fake.registered()
    fake.close_outputs()
    assert fake.messages() == [["exit", 3, None, False]]
    assert fake.reaped == 1 and not fake.registered()
    assert fake.endpoints.stdin.closed and not fake.signals


def test_end_of_file_on_both_outputs_does_not_end_the_program(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.close_outputs()
    assert fake.messages() == [] and not fake.reaped
    fake.exit(None, "KILL", True)
    assert fake.messages() == [["exit", None, "KILL", True]]


@pytest.mark.parametrize(("tty", "grace"), [(False, programs.GRACE), (True, 0)])
def test_an_abandoned_program_gets_a_grace_period_then_signals(tty, grace, net, monkeypatch):
    fake = FakeProgram(net, monkeypatch, tty)
    fake.program.close()
    net.pump()
    stdin, stdout = fake.endpoints.stdin, fake.endpoints.stdout
    assert stdin.closed and stdout.closed
    if grace:
        net.advance(grace - 0.01)
        assert fake.signals == []
        net.advance(0.01)
    else:
        net.advance(0)
    assert fake.signals == [signal.SIGHUP]
    net.advance(programs.PAUSE)
    net.advance(programs.PAUSE)
    assert fake.signals == list(programs.END_SIGNALS)
    fake.exit(None, "KILL", False)
    net.advance(programs.PAUSE)
    assert fake.reaped == 1 and not fake.registered()


def test_the_group_of_a_program_that_ended_in_its_grace_period_is_ended(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.program.close()
    net.pump()
    net.advance(1)
    fake.exit(0, None, False)
    net.advance(3 * programs.SHORT_PAUSE)
    assert fake.signals == [signal.SIGTERM, signal.SIGKILL]
    assert fake.reaped == 1 and not fake.registered()
    net.advance(100)
    assert len(fake.signals) == 2, "the process group id may have been reused"


def test_close_now_cuts_a_grace_period_short(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.program.close()
    net.advance(1)
    fake.child.broker.defer(fake.program.close_now)
    net.pump()
    net.advance(2.5 * programs.SHORT_PAUSE)
    assert fake.signals == list(programs.END_SIGNALS)


def test_signals_after_a_custom_grace_period(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.program.started.end_signals = (signal.SIGINT, signal.SIGKILL)
    fake.program.close(0.3)
    net.pump()
    net.advance(0.29)
    assert fake.signals == []
    net.advance(0.01)
    assert fake.signals == [signal.SIGINT]
    net.advance(programs.CUSTOM_GRACE_PAUSE)
    assert fake.signals == [signal.SIGINT, signal.SIGKILL]


def test_losing_the_caller_abandons_the_program(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.child.router.econtext.detached = True
    with fake.child.broker.thread():
        fake.child.router.context_lost(0)
    net.pump()
    assert fake.program.closing


def test_control_messages(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    control = fake.program.control
    for fields in (["signal", "USR1"], ["signal", "NONE"], ["resize", 1, 2, 0, 0], ["what"], [], 7):
        fake.master.send(fake.child, control, programs.core.encode(fields), flags=0)
    fake.master.send(fake.child, control, b"\xff", flags=0)
    net.pump()
    assert fake.signals == [signal.SIGUSR1]
    assert any("unknown signal 'NONE'" in line for line in fake.child.logs)
    assert not fake.program.closing
    fake.master.send(fake.child, control, programs.core.encode(["close"]), flags=0)
    net.pump()
    assert fake.program.closing


def test_a_reaped_program_gets_no_signals(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    fake.close_outputs()
    fake.exit(0, None, False)
    fake.program.signal("TERM")
    fake.program.close()
    net.advance(100)
    assert not fake.signals


def test_programs_of_one_stream_are_bounded(net, monkeypatch):
    fake = FakeProgram(net, monkeypatch)
    below = net.node(2, fake.child)
    net.pump()
    monkeypatch.setattr(programs, "MAX_PROGRAMS", 2)
    router = fake.child.router
    spec = {"kind": "argv", "args": ["x"], "window": 100}

    def start(peer):
        found = programs.start(spec, peer, [1 << 31, 1, 2, 3], router=router)
        net.pump()
        return found[0]

    assert [start(below.id) for _ in range(4)] == ["started", "started", "refused", "refused"]
    # Ancestors have no limit.
    assert [start(0) for _ in range(4)] == ["started"] * 4
