"""mitogen.fakessh: the effect of a command line, and of the end of either side. Contexts and
stand-ins are fakes, and no program is started."""

import errno
import os
import signal
import socket
import subprocess
import threading
import types

import pytest

import mitogen.master
from mitogen import core
from mitogen.fakessh import rendezvous, runner
from mitogen.fakessh.rendezvous import Connection
from mitogen.programs import client

SOON = 20.0


class Program:
    """A fake process.Popen that records its calls. It ends with `returncode`."""

    error = "the link broke"

    def __init__(self, returncode=0, ends=True):
        self.returncode = returncode
        self.ends = ends
        self.sizes = []
        self.closed = False
        self.followed = threading.Event()

    def when_done(self, callback):
        if self.ends:
            callback(self)
        self.followed.set()

    def resize(self, *size):
        self.sizes.append(size)

    def close(self):
        self.closed = True


class FarContext(core.Context):
    """A context whose only program is the given one."""

    def __init__(self, router, context_id, program):
        core.Context.__init__(self, router, context_id)
        self.program = program
        self.asked = []

    def popen(self, args, **options):
        self.asked.append((args, options))
        if isinstance(self.program, Exception):
            raise self.program
        return self.program


@pytest.fixture
def router(tmp_path, monkeypatch):
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [str(tmp_path)])
    broker = types.SimpleNamespace(alive=True, closing=False, on_thread=lambda: False)
    lines = []
    yield types.SimpleNamespace(broker=broker, log=lambda *args: lines.append(args), lines=lines)
    assert os.listdir(str(tmp_path)) == []


@pytest.fixture
def make(router):
    """Return `make(program, hosts=...)`, which creates a session, and a context for it."""
    made = []

    def make(program=None, strict=False, **options):
        far = FarContext(router, 5, program if program is not None else Program())
        dest = None if options.get("hosts") else far
        for name in options.get("hosts") or ():
            options["hosts"][name] = far
        made.append(runner._Session(dest, options.get("hosts"), None, strict))
        return made[-1], far

    yield make
    for each in made:
        each.close()


class FakeStandIn:
    """A fake stand-in: its connection, and the frames sent to it."""

    def __init__(self, *argv, environ=(), terminals="000"):
        self.near, far = socket.socketpair()
        self.near.settimeout(SOON)
        self.connection = Connection(far)
        self.connection.argv = list(argv)
        self.connection.environ = dict(environ)
        self.connection.terminals = [digit == "1" for digit in terminals]
        self.connection.fds = [os.open(os.devnull, os.O_RDWR) for _ in range(3)]

    def frames(self):
        """Return the frames received until the end."""
        self.connection.close()
        data = b""
        while True:
            more = self.near.recv(65536)
            if not more:
                break
            data += more
        self.near.close()
        frames = []
        while data:
            size = 5 + int.from_bytes(data[1:5], "big")
            frames.append((data[:1], data[5:size]))
            data = data[size:]
        return frames


def serve(session, *argv, **options):
    """Serve a stand-in in a session; return the frames sent to it."""
    stand_in = FakeStandIn(*argv, **options)
    session.serve(stand_in.connection)
    return stand_in.frames()


def end(status, text=b""):
    return (b"X", bytes([status]) + text)


OPENED = (b"O", b"")

# ---- starting the program


def test_a_command(make):
    session, far = make()
    assert serve(session, "u@x", "-p", "7", "echo", "a  b") == [OPENED, end(0)]
    ((args, options),) = far.asked
    assert args == "echo a  b"
    assert options.pop("add_env") == {
        "SSH_CLIENT": "127.0.0.1 0 7",
        "SSH_CONNECTION": "127.0.0.1 0 127.0.0.1 7",
        "MITOGEN_FAKESSH_DEPTH": "1",
    }
    assert all(isinstance(options.pop(name), int) for name in ("stdin", "stdout", "stderr"))
    assert options == {"pty": None}
    assert far.program.closed


def test_no_input(make):
    session, far = make()
    serve(session, "-n", "x", "cat")
    assert far.asked[0][1]["stdin"] == client.DEVNULL


def test_a_shell(make):
    session, far = make()
    frames = serve(session, "x")
    assert far.asked[0][0] is None
    assert frames[0][0] == b"E" and b"will not be allocated" in frames[0][1]
    assert serve(session, "-q", "x") == [OPENED, end(0)]


def test_a_subsystem(make):
    session, far = make()
    assert serve(session, "-s", "--", "x", "sftp") == [OPENED, end(0)]
    args = far.asked[0][0]
    assert isinstance(args, client.Subsystem) and args.name == "sftp"


def test_a_connection(make):
    session, far = make()
    assert serve(session, "-W", "[::1]:22", "x") == [OPENED, end(0)]
    args = far.asked[0][0]
    assert isinstance(args, client.Connect) and (args.host, args.port) == ("::1", 22)


def test_in_the_background(make):
    session, far = make()
    assert serve(session, "-f", "x", "cmd") == [(b"O", b"b"), end(0)]
    assert far.asked[0][1]["stdin"] == client.DEVNULL


def test_environment(make):
    session, far = make()
    environ = {"A": "1", "B": "2", runner.DEPTH_VARIABLE: "3"}
    serve(session, "-oSendEnv=A", "-oSetEnv=C=c", "x", "env", environ=environ)
    env = far.asked[0][1]["add_env"]
    assert (env["A"], env["C"], env[runner.DEPTH_VARIABLE]) == ("1", "c", "4")
    assert "B" not in env


# ---- the end


@pytest.mark.parametrize(
    "returncode, strict, status",
    [(0, False, 0), (7, False, 7), (255, False, 255), (-15, False, 143), (-15, True, 255)],
)
def test_status(returncode, strict, status, make):
    session, _ = make(Program(returncode), strict)
    assert serve(session, "x", "cmd") == [OPENED, end(status)]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_lost_context(quiet, make):
    session, _ = make(Program(None))
    text = b"" if quiet else b"ssh: connection to host x lost: the link broke\n"
    options = ["-q"] if quiet else []
    assert serve(session, *options, "x", "cmd") == [OPENED, end(255, text)]


REFUSED = client.Refused("the context does not run that")


@pytest.mark.parametrize(
    "error, argv, text",
    [
        (REFUSED, ["-s", "x", "what"], "subsystem request failed on channel 0\n"),
        (
            REFUSED,
            ["-W", "a:1", "x"],
            "channel 0: open failed: %s\nstdio forwarding failed\n" % REFUSED,
        ),
        (REFUSED, ["x", "cmd"], "ssh: x: the context does not run that\n"),
        (REFUSED, ["-q", "x", "cmd"], ""),
        (core.ChannelError("gone"), ["x", "cmd"], "ssh: connection to host x lost: gone\n"),
        (core.ChannelError("gone"), ["-s", "x", "y"], "ssh: connection to host x lost: gone\n"),
        (OSError(errno.EMFILE, "Too many"), ["x", "cmd"], "ssh: x: [Errno 24] Too many\n"),
    ],
)
def test_programs_that_cannot_be_started(error, argv, text, make):
    session, _ = make(error)
    assert serve(session, *argv) == [end(255, text.encode())]


def test_a_lost_stand_in(make):
    session, far = make(Program(ends=False))
    stand_in = FakeStandIn("x", "cmd")
    serving = threading.Thread(target=session.serve, args=(stand_in.connection,))
    serving.start()
    assert far.program.followed.wait(SOON)
    assert not far.program.closed
    stand_in.near.shutdown(socket.SHUT_WR)
    serving.join(SOON)
    assert far.program.closed
    assert stand_in.frames() == [OPENED]


def test_closing_a_session(make, router):
    session, far = make(Program(ends=False))
    stand_in = FakeStandIn("x", "cmd")
    session.rendezvous._connections.add(stand_in.connection)
    serving = threading.Thread(target=session.serve, args=(stand_in.connection,))
    serving.start()
    assert far.program.followed.wait(SOON)
    done = []
    session.on_shutdown = lambda: done.append(os.path.exists(session.rendezvous.directory))
    core.fire(router.broker, "shutdown")
    serving.join(SOON)
    assert done == [False]
    assert far.program.closed
    stand_in.frames()


def test_a_session_requires_a_broker(make, router):
    router.broker.closing = True
    with pytest.raises(core.Error):
        make()


# ---- a terminal


def serve_terminal(session, far, *argv, size=b"132 50 1 2", terminals="111", then=b"", **options):
    """Serve a stand-in at a terminal that answers the request; return the frames sent to it."""
    stand_in = FakeStandIn(*argv, terminals=terminals, **options)
    data = size + b"\0modes"
    keys = os.open(os.devnull, os.O_RDONLY)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, keys.to_bytes(4, "little"))]
    stand_in.near.sendmsg([b"K" + len(data).to_bytes(4, "big") + data + then], rights)
    os.close(keys)
    stand_in.near.shutdown(socket.SHUT_WR)
    session.serve(stand_in.connection)
    return stand_in.frames()


def test_a_terminal(make):
    session, far = make()
    frames = serve_terminal(session, far, "-e", "none", "x", environ={"TERM": "vt220"})
    assert frames == [(b"T", b"r"), OPENED, end(0, b"Connection to x closed.\n")]
    options = far.asked[0][1]
    pty = options["pty"]
    assert (pty.term, tuple(pty.size), pty.modes) == ("vt220", (132, 50, 1, 2), b"modes")
    assert options["stderr"] == client.DEVNULL


def test_a_terminal_without_a_size(make):
    session, far = make()
    frames = serve_terminal(session, far, "-q", "x", size=b"0 0 0 0")
    assert frames == [(b"T", b"r~"), OPENED, end(0)]
    pty = far.asked[0][1]["pty"]
    assert (pty.term, tuple(pty.size)) == ("dumb", (80, 24, 0, 0))


def test_a_terminal_that_changes_its_size(make):
    session, far = make(Program(ends=False))
    sizes = b"W\0\0\0\x0a90 40 0 0 " + b"W\0\0\0\x01x" + b"?\0\0\0\0"
    serve_terminal(session, far, "x", then=sizes)
    assert far.program.sizes == [(90, 40, 0, 0), (0, 0, 0, 0)]
    assert far.program.closed


def test_a_terminal_for_input_only(make):
    session, far = make()
    assert serve_terminal(session, far, "x", "cmd") == [(b"T", b"c"), OPENED, end(0)]
    options = far.asked[0][1]
    assert options["pty"] is None and options["stderr"] != client.DEVNULL


def test_a_terminal_that_is_not_read(make):
    session, far = make()
    assert serve(session, "-n", "x", "cmd", terminals="111") == [OPENED, end(0)]


def test_a_terminal_lost_at_once(make):
    session, far = make()
    stand_in = FakeStandIn("x", terminals="100")
    stand_in.near.shutdown(socket.SHUT_WR)
    session.serve(stand_in.connection)
    assert (stand_in.frames(), far.asked) == ([(b"T", b"r~")], [])


def test_a_forced_terminal(make):
    session, far = make()
    frames = serve(session, "-tt", "x", "cmd", environ={"TERM": "vt100"})
    assert frames == [OPENED, end(0, b"Connection to x closed.\n")]
    assert far.asked[0][1]["pty"].term == "vt100"


# ---- invocations that start no program


@pytest.mark.parametrize(
    "argv, status, text",
    [
        (["-V"], 0, "OpenSSH_9.9p2"),
        ([], 255, "usage"),
        (["-O", "check", "x"], 0, "Master running (pid=%d)\n" % os.getpid()),
        (["-O", "exit", "x"], 0, "Exit request sent.\n"),
        (["-O", "stop", "x"], 0, "Stop listening request sent.\n"),
        (["-O", "proxy", "x"], 255, "mux_client_proxy: not supported"),
        (["-oExitOnForwardFailure=yes", "-D", "1", "x", "id"], 255, "port forwarding"),
    ],
)
def test_invocations_without_a_program(argv, status, text, make):
    session, far = make()
    ((kind, payload),) = serve(session, *argv)
    assert (kind, payload[0]) == (b"X", status)
    assert text in payload[1:].decode()
    assert not far.asked


def test_config(make, monkeypatch):
    session, _ = make()
    rfd, wfd = os.pipe()
    stand_in = FakeStandIn("-G", "-l", "u", "x")
    os.dup2(wfd, stand_in.connection.fds[1])
    session.serve(stand_in.connection)
    assert os.read(rfd, 1000) == b"host x\nuser u\nhostname x\nport 22\n"
    assert stand_in.frames() == [end(0)]
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    stand_in = FakeStandIn("-G", "x")
    os.dup2(wfd, stand_in.connection.fds[1])
    session.serve(stand_in.connection)
    assert b"user %d\n" % os.getuid() in os.read(rfd, 1000)
    stand_in.frames()
    os.close(rfd)
    os.close(wfd)


def test_forwardings_cause_warnings(make):
    session, far = make()
    frames = serve(session, "-L", "1:a:2", "-D", "3", "x", "cmd")
    text = "Warning: %s forwarding %s: not supported (mitogen.fakessh)\n"
    warnings = [text % ("local", "1:a:2"), text % ("dynamic", "3")]
    assert frames == [(b"E", each.encode()) for each in warnings] + [OPENED, end(0)]
    assert serve(session, "-q", "-D", "3", "x", "cmd") == [OPENED, end(0)]


def test_no_remote_command(make):
    session, far = make()
    stand_in = FakeStandIn("-N", "x")
    serving = threading.Thread(target=session.serve, args=(stand_in.connection,))
    serving.start()
    assert stand_in.near.recv(100) == b"O\0\0\0\x01n"
    assert stand_in.connection.fds == []
    core.fire(far, "disconnect")
    serving.join(SOON)
    assert stand_in.frames() == [end(255, b"ssh: connection to host x lost: the context is gone\n")]
    # The session no longer listens to the context.
    assert far.__dict__["_signals"]["disconnect"] == []


def test_hosts(make):
    session, far = make(hosts={"web1": None, "::1": None})
    for host in ("web1", "u@web1", "ssh://WEB1", "[::1]", "::1"):
        assert serve(session, host, "cmd") == [OPENED, end(0)]
    text = b"ssh: web2: unknown host; known hosts: ::1, web1\n"
    assert serve(session, "web2", "cmd") == [end(255, text)]
    assert serve(session, "-q", "web2", "cmd") == [end(255)]


@pytest.mark.parametrize("depth, served", [("7", True), ("8", False), ("9", False), ("\xb2", True)])
def test_depth(depth, served, make):
    session, far = make()
    frames = serve(session, "x", "cmd", environ={runner.DEPTH_VARIABLE: depth})
    assert (frames == [OPENED, end(0)]) == served
    assert served or b"is it on the remote PATH?" in frames[0][1]


# ---- run()


class FakeTool:
    """A fake subprocess.Popen."""

    def __init__(self, outcome=0, ignores=()):
        self.outcome = outcome
        self.ignores = ignores
        self.args = ["tool"]
        self.pid = 12345
        self.signals = []
        self.returncode = None

    def wait(self, timeout):
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def send_signal(self, number):
        self.signals.append(number)
        if number not in self.ignores:
            self.returncode = -number

    def poll(self):
        return self.returncode


@pytest.fixture
def start(monkeypatch):
    """Return `start(popen, own_group)`; it makes run() start *popen* and returns its arguments."""
    seen = {}

    def start(popen, own_group=True):
        def make(args, **options):
            seen.update(options, args=args)
            return popen

        def killpg(pid, number):
            assert pid == popen.pid
            if number:
                popen.send_signal(number)
            elif popen.returncode is not None:
                raise ProcessLookupError

        monkeypatch.setattr(subprocess, "Popen", make)
        monkeypatch.setattr(os, "killpg", killpg)
        monkeypatch.setattr(runner, "_at_terminal", lambda: not own_group)
        monkeypatch.setattr(runner, "GRACE", 0.05)
        monkeypatch.setattr(runner, "POLL_INTERVAL", 0.001)
        return seen

    return start


@pytest.mark.parametrize("own_group", [True, False])
def test_run(own_group, start, router):
    seen = start(FakeTool(7), own_group)
    far = FarContext(router, 5, None)
    status = runner.run(far, None, ("tool", "arg"), env={"A": "b"}, cwd="/", stdout=3)
    assert status == 7
    assert (seen["args"], seen["cwd"], seen["stdout"]) == (["tool", "arg"], "/", 3)
    assert seen["start_new_session"] is own_group
    assert seen["env"]["A"] == "b"
    assert seen["env"]["PATH"].endswith("/bin:" + os.environ["PATH"])
    assert core.Context.__hash__(far) and far.router.broker.__dict__["_signals"]["shutdown"] == []


def test_wrappers_use_the_path_of_env(start, router, tmp_path):
    start(FakeTool())
    seen = []
    original = rendezvous.shutil.which
    rendezvous.shutil.which = lambda name, path: seen.append(path)
    try:
        runner.run(FarContext(router, 5, None), None, ["tool"], env={"PATH": "/nowhere"})
    finally:
        rendezvous.shutil.which = original
    assert set(seen) == {"/nowhere"}


@pytest.mark.parametrize("own_group", [True, False])
@pytest.mark.parametrize(
    "ignores, signals",
    [((), [signal.SIGTERM]), ((signal.SIGTERM,), [signal.SIGTERM, signal.SIGKILL])],
)
def test_deadline(ignores, signals, own_group, start, router):
    popen = FakeTool(subprocess.TimeoutExpired("tool", 3), ignores)
    start(popen, own_group)
    with pytest.raises(core.TimeoutError) as caught:
        runner.run(FarContext(router, 5, None), None, ["tool"], 3)
    assert "['tool'] did not finish within 3 s" in str(caught.value)
    assert popen.signals[: len(signals)] == signals


def test_interrupted(start, router):
    popen = FakeTool(KeyboardInterrupt())
    start(popen)
    with pytest.raises(KeyboardInterrupt):
        runner.run(FarContext(router, 5, None), None, ["tool"])
    assert popen.signals[0] == signal.SIGTERM


def test_the_broker_ends_while_the_program_runs(start, router, tmp_path):
    popen = FakeTool()

    def wait(timeout):
        core.fire(router.broker, "shutdown")
        assert os.listdir(str(tmp_path)) == []
        return -15

    popen.wait = wait
    start(popen)
    assert runner.run(FarContext(router, 5, None), None, ["tool"]) == -15
    assert popen.signals == [signal.SIGTERM]


@pytest.mark.parametrize("own_group", [True, False])
def test_in_a_child_the_program_is_guarded(own_group, start, router, monkeypatch):
    frames = []
    guard = types.SimpleNamespace(
        start=lambda: frames.append("start"),
        watch=lambda pid: frames.append(("+", pid)),
        unwatch=lambda pid: frames.append(("-", pid)),
    )
    monkeypatch.setattr(runner.server, "guard_of", lambda of: guard)
    router.econtext = "econtext"
    start(FakeTool(), own_group)
    runner.run(FarContext(router, 5, None), None, ["tool"])
    assert frames == (["start", ("+", 12345), ("-", 12345)] if own_group else [])


def test_an_ended_program_gets_no_signal(start, router):
    popen = FakeTool(KeyboardInterrupt())
    popen.returncode = 0
    start(popen)
    with pytest.raises(KeyboardInterrupt):
        runner.run(FarContext(router, 5, None), None, ["tool"])
    assert popen.signals == []


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_errors_in_signaling_an_ended_program(error, start, router, monkeypatch):
    start(FakeTool())
    tool = runner._Tool(router, ["tool"])

    def killpg(pid, number):
        raise error

    monkeypatch.setattr(os, "killpg", killpg)
    tool.signal(signal.SIGTERM)
    tool.popen.returncode = 0
    assert not tool.is_running()


def test_a_group_without_its_leader_is_running(start, router, monkeypatch):
    start(FakeTool())
    tool = runner._Tool(router, ["tool"])
    assert tool.is_running()
    tool.popen.returncode = 0
    monkeypatch.setattr(os, "killpg", lambda pid, number: None)
    assert tool.is_running()
    tool.own_group = False
    assert not tool.is_running()


@pytest.mark.parametrize(
    "opened, group, found",
    [(True, os.getpgrp(), True), (True, 1, False), (True, OSError(), False), (False, 0, False)],
)
def test_at_terminal(opened, group, found, monkeypatch):
    def open_tty(path, flags):
        assert path == "/dev/tty"
        if not opened:
            raise OSError
        return os.dup(0)

    def tcgetpgrp(fd):
        if isinstance(group, OSError):
            raise group
        return group

    monkeypatch.setattr(runner.os, "open", open_tty)
    monkeypatch.setattr(runner.os, "tcgetpgrp", tcgetpgrp)
    assert runner._at_terminal() is found


@pytest.mark.parametrize("args", [None, [], "ssh x", b"ssh x", ()])
def test_without_a_program(args, router):
    with pytest.raises(TypeError):
        runner.run(FarContext(router, 5, None), None, args)


def test_arguments_of_remote_calls(start, router):
    far = FarContext(router, 5, None)
    seen = start(FakeTool(3))
    assert runner.run(far, ["one"]) == 3
    assert seen["args"] == ["one"]
    assert runner.run(far, router, ["two"], None, "econtext") == 3
    with pytest.raises(TypeError):
        runner.run(far, ["one"], ["two"])
    with pytest.raises(ValueError):
        runner.run(far, None, ["one"], stdin=subprocess.PIPE)
    assert runner.run.mitogen_takes_econtext


@pytest.mark.parametrize("dest, hosts", [(None, None), ("x", None), (None, {}), (None, {"a": 1})])
def test_without_a_context(dest, hosts):
    with pytest.raises(TypeError):
        runner.run(dest, None, ["tool"], hosts=hosts)


def test_session(router, tmp_path):
    with pytest.raises(ZeroDivisionError):
        with runner.session(FarContext(router, 5, None), env={"A": "b"}) as environ:
            assert environ["A"] == "b"
            assert os.access(environ["CVS_RSH"], os.X_OK)
            raise ZeroDivisionError
    assert os.listdir(str(tmp_path)) == []


# ---- the command line


class Master:
    """A fake master.Router."""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def from_spec(self, text):
        if text == "wrong":
            raise ValueError("spec 'wrong'")
        return "context of " + text


@pytest.fixture
def program(monkeypatch):
    """Return `program("local", "tool")`, which returns (exit status, arguments of run())."""
    seen = {}
    monkeypatch.setattr(mitogen.master, "Router", Master)
    monkeypatch.setattr(runner.signal, "getsignal", lambda number: signal.SIG_IGN)

    def program(*argv, outcome=0):
        def run(dest, **options):
            seen.update(options, dest=dest)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(runner, "run", run)
        return runner.main(list(argv)), seen

    return program


def test_main(program):
    status, seen = program("--deadline", "3.5", "ssh:x/sudo", "rsync", "-a", "--", "x", outcome=7)
    assert status == 7
    assert seen == {
        "dest": "context of ssh:x/sudo",
        "args": ["rsync", "-a", "--", "x"],
        "deadline": 3.5,
        "hosts": None,
        "strict": False,
    }


def test_main_with_hosts(program):
    status, seen = program("--strict", "--host", "a=x=y", "--host=b=z", "--", "scp", "-3")
    assert status == 0
    assert seen["hosts"] == {"a": "context of x=y", "b": "context of z"}
    assert (seen["dest"], seen["args"], seen["strict"]) == (None, ["scp", "-3"], True)


@pytest.mark.parametrize(
    "outcome, status, text",
    [
        (-9, 137, ""),
        (KeyboardInterrupt(), 130, ""),
        (core.TimeoutError("late"), 255, "mitogen.fakessh: late\n"),
        (FileNotFoundError(2, "No such file", "x"), 255, "No such file"),
    ],
)
def test_main_exit_status(outcome, status, text, program, capsys):
    assert program("local", "tool", outcome=outcome)[0] == status
    assert text in capsys.readouterr().err


def test_main_with_an_invalid_destination(program, capsys):
    assert program("wrong", "tool")[0] == 255
    assert capsys.readouterr().err == "mitogen.fakessh: spec 'wrong'\n"


@pytest.mark.parametrize("argv", [[], ["local"], ["local", "--"], ["--host", "a=b"], ["--what"]])
def test_main_without_a_command(argv, program, capsys):
    with pytest.raises(SystemExit) as caught:
        program(*argv)
    assert caught.value.code == 2
    assert "usage: python3 -m mitogen.fakessh" in capsys.readouterr().err


def test_main_cleans_up_at_a_signal(program, monkeypatch):
    handlers = {}
    monkeypatch.setattr(runner.signal, "getsignal", lambda number: signal.SIG_DFL)
    monkeypatch.setattr(runner.signal, "signal", handlers.__setitem__)
    program("local", "tool")
    assert set(handlers) == {signal.SIGTERM, signal.SIGHUP}
    with pytest.raises(SystemExit) as caught:
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert caught.value.code == 143
