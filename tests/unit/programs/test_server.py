"""What the target makes of a request, and when it ends a program: no program is started here."""

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
    """The account's entry of passwd(5), to be changed."""
    entry = SimpleNamespace(**vars(ACCOUNT))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry)
    monkeypatch.delenv("HOME", raising=False)
    return entry


def test_home_is_what_the_environment_says_then_what_passwd_says(account, monkeypatch, tmp_path):
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
def test_a_login_shell_that_says_no(shell, account):
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
    assert programs.find_sftp_server() is None, "a directory, and what may not be run"
    usual.chmod(0o755)
    assert programs.find_sftp_server() == str(usual)


def test_the_environment_is_the_accounts_own(account, monkeypatch):
    monkeypatch.setattr(os, "environ", {"A": "1"})
    assert programs.environment({}) == {"A": "1", "HOME": "/", "SHELL": "/bin/sh"}
    assert programs.environment({"add_env": {"A": "2"}})["A"] == "2"
    assert programs.environment({"env": {}}) == {}
    assert programs.environment({"env": {"B": "3"}, "add_env": {"C": "4"}}) == {"B": "3", "C": "4"}


# ---- what programs/client.py asks for


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
def test_what_is_sent(args, kind, sent):
    spec = client.spec_of(args, None, None, None, None, False)
    assert (spec["kind"], spec["args"]) == (kind, sent)
    assert set(spec) == {"kind", "args", "window"}


def test_options_that_are_sent():
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
def test_args_that_are_none(args, error, text):
    with pytest.raises(error, match=text):
        client.spec_of(args, None, None, None, None, False)


def test_signals_by_name():
    assert client._returncode(3, None) == 3
    assert client._returncode(None, "TERM") == -signal.SIGTERM
    assert client._returncode(None, "35") == -35
    assert client._returncode(None, "NONSENSE") == -127
    assert programs._signal_name(int(signal.SIGUSR1)) == "USR1"
    assert programs._signal_name(4711) == "4711"


# ---- the end


class Endpoint:
    """A reader or writer that only notes that it was closed."""

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


class Ended:
    """A program in memory, whose process is this object."""

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
        self.told = self.master.inbox(1 << 31)
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
        return [msg.unpickle() for msg in self.told]

    def known(self):
        return programs.programs(self.child.router).programs


@pytest.fixture
def net():
    with nodes.network() as net:
        yield net


def test_the_status_comes_after_both_ends_of_file(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.exit(3, None, False)
    assert ended.messages() == [] and ended.known()
    ended.close_outputs()
    assert ended.messages() == [["exit", 3, None, False]]
    assert ended.reaped == 1 and not ended.known()
    assert ended.endpoints.stdin.closed and not ended.signals


def test_the_ends_of_file_alone_are_not_the_end(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.close_outputs()
    assert ended.messages() == [] and not ended.reaped
    ended.exit(None, "KILL", True)
    assert ended.messages() == [["exit", None, "KILL", True]]


@pytest.mark.parametrize(("tty", "grace"), [(False, programs.GRACE), (True, 0)])
def test_given_up_it_gets_time_and_then_signals_to_its_group(tty, grace, net, monkeypatch):
    ended = Ended(net, monkeypatch, tty)
    ended.program.close()
    net.pump()
    stdin, stdout = ended.endpoints.stdin, ended.endpoints.stdout
    assert stdin.closed and stdout.closed
    if grace:
        net.advance(grace - 0.01)
        assert ended.signals == []
        net.advance(0.01)
    else:
        net.advance(0)
    assert ended.signals == [signal.SIGHUP]
    net.advance(programs.PAUSE)
    net.advance(programs.PAUSE)
    assert ended.signals == list(programs.ENDINGS)
    ended.exit(None, "KILL", False)
    net.advance(programs.PAUSE)
    assert ended.reaped == 1 and not ended.known()


def test_one_that_ends_in_its_grace_has_its_group_ended(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.program.close()
    net.pump()
    net.advance(1)
    ended.exit(0, None, False)
    net.advance(3 * programs.SHORT_PAUSE)
    assert ended.signals == [signal.SIGTERM, signal.SIGKILL]
    assert ended.reaped == 1 and not ended.known()
    net.advance(100)
    assert len(ended.signals) == 2, "its group's number may be another's by now"


def test_in_a_hurry_there_is_no_grace_even_within_one(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.program.close()
    net.advance(1)
    ended.child.broker.defer(ended.program.hurry)
    net.pump()
    net.advance(2.5 * programs.SHORT_PAUSE)
    assert ended.signals == list(programs.ENDINGS)


def test_given_another_grace_its_own_endings_come_brisk(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.program.started.endings = (signal.SIGINT, signal.SIGKILL)
    ended.program.close(0.3)
    net.pump()
    net.advance(0.29)
    assert ended.signals == []
    net.advance(0.01)
    assert ended.signals == [signal.SIGINT]
    net.advance(programs.BRISK_PAUSE)
    assert ended.signals == [signal.SIGINT, signal.SIGKILL]


def test_a_lost_caller_gives_it_up(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.child.router.econtext.detached = True
    with ended.child.broker.thread():
        ended.child.router.context_lost(0)
    net.pump()
    assert ended.program.closing


def test_what_the_caller_says(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    control = ended.program.control
    for fields in (["signal", "USR1"], ["signal", "NONE"], ["resize", 1, 2, 0, 0], ["what"], [], 7):
        ended.master.send(ended.child, control, programs.core.encode(fields), flags=0)
    ended.master.send(ended.child, control, b"\xff", flags=0)
    net.pump()
    assert ended.signals == [signal.SIGUSR1]
    assert any("no signal 'NONE'" in line for line in ended.child.logs)
    assert not ended.program.closing
    ended.master.send(ended.child, control, programs.core.encode(["close"]), flags=0)
    net.pump()
    assert ended.program.closing


def test_no_signal_after_it_was_reaped(net, monkeypatch):
    ended = Ended(net, monkeypatch)
    ended.close_outputs()
    ended.exit(0, None, False)
    ended.program.signal("TERM")
    ended.program.close()
    net.advance(100)
    assert not ended.signals
