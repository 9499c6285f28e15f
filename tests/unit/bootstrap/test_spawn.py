"""spawn.py: real processes on pipes and terminals, clean-up after errors, reaping."""

import errno
import os
import select
import signal
import socket
import stat
import subprocess
import sys

import pytest

from mitogen import core
from mitogen.bootstrap import spawn
from mitogen.core import StreamError
from tests import conftest, processes
from tests.unit import nodes


def read_until_eof(fd):
    """Read a descriptor to its end, for at most 5 s."""
    data = b""
    while select.select([fd], [], [], 5)[0]:
        try:
            piece = os.read(fd, 65536)
        except OSError as e:
            assert e.errno == errno.EIO  # a terminal's end
            break
        if not piece:
            break
        data += piece
    return data


@pytest.fixture
def start():
    """Return spawn.start(), whose processes are ended and closed after the test."""
    started = []
    before = conftest.open_descriptors()

    def begin(*args, **kwargs):
        started.append(spawn.start(*args, **kwargs))
        return started[-1]

    yield begin
    for process in started:
        process.close_slave()
        process.signal(signal.SIGKILL)
        process.proc.wait()
        for fd in (process.pipe, process.tty, process.err):
            if fd is not None:
                os.close(fd)
    assert not conftest.open_descriptors() - before


def sh(script):
    return ["/bin/sh", "-c", script]


def test_a_socketpair_passes_bytes_both_ways():
    one, two = spawn.create_socketpair()
    try:
        os.write(one, b"there")
        os.write(two, b"back")
        assert (os.read(two, 99), os.read(one, 99)) == (b"there", b"back")
        assert stat.S_ISSOCK(os.fstat(one).st_mode)
        assert not os.get_inheritable(one) and not os.get_inheritable(two)
    finally:
        os.close(one)
        os.close(two)


def test_a_pipe_is_standard_input_output_and_error(start):
    process = start(sh("cat; echo error >&2; exit 3"))
    assert process.tty is process.err is process.slave is None
    os.write(process.pipe, b"abc\n")
    assert os.read(process.pipe, 99) == b"abc\n"
    sock = socket.socket(fileno=os.dup(process.pipe))
    sock.shutdown(socket.SHUT_WR)
    sock.close()
    assert read_until_eof(process.pipe) == b"error\n"
    assert process.proc.wait() == 3 and process.pid == process.proc.pid


def test_a_session_of_its_own(start):
    process = start(sh("ps -o sid= -p $$"))
    assert int(read_until_eof(process.pipe)) == process.pid


def test_standard_error_on_its_own_pipe(start):
    process = start(sh("echo out; echo err >&2"), err=True)
    assert read_until_eof(process.pipe) == b"out\n"
    assert read_until_eof(process.err) == b"err\n"


def test_a_controlling_terminal_beside_the_pipe(start):
    process = start(sh('echo ask >/dev/tty; read -r a </dev/tty; echo "got $a"'), tty=True)
    assert os.read(process.tty, 99) == b"ask\n"
    os.write(process.tty, b"answer\n")
    assert read_until_eof(process.pipe) == b"got answer\n"
    process.close_slave()
    process.close_slave()
    assert read_until_eof(process.tty) == b""


def test_a_terminal_as_standard_input_and_output(start):
    process = start(sh("tty; cat >&2"), stdio="tty")
    assert process.tty is None and os.isatty(process.pipe)
    assert os.read(process.pipe, 99).startswith(b"/dev/")
    os.write(process.pipe, b"\x00\x03\x04\r\n\xff")
    assert os.read(process.pipe, 99) == b"\x00\x03\x04\r\n\xff"  # unchanged, as in raw mode


def test_environment(start):
    process = start(sh('echo "$ONE $HOME"'), environ={"ONE": "1"})
    assert read_until_eof(process.pipe).decode().split() == ["1", os.environ["HOME"]]
    process = start([sys.executable, "-S", "-c", "import os; print(os.environ.get('ONE'))"])
    assert read_until_eof(process.pipe) == b"None\n"


def test_parent_descriptors_are_closed_in_the_child(start):
    inherited = start(sh("ls -l /proc/self/fd; :"), err=True, tty=True)
    names = [
        line.split()[-3] for line in read_until_eof(inherited.pipe).splitlines() if b"->" in line
    ]
    assert sorted(map(int, names)) in (
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    )  # 3: of ls; 4: of Python < 3.12


@pytest.mark.parametrize("kwargs", [{}, {"tty": True}, {"stdio": "tty"}, {"err": True}])
@pytest.mark.parametrize(
    "argv, why",
    [
        (["/no/such/program"], "cannot start /no/such/program: .*No such file"),
        (["no-such-program"], "cannot start no-such-program: .*No such file"),
        (["/etc/passwd"], "cannot start /etc/passwd: "),
        (["/bin/echo", "a\0b"], "cannot start .*: embedded null byte"),
    ],
)
def test_a_failed_start_leaves_no_descriptors(argv, why, kwargs):
    before = conftest.open_descriptors()
    children = {child.pid for child in processes.children()}
    with pytest.raises(StreamError, match=why):
        spawn.start(argv, **kwargs)
    assert conftest.open_descriptors() == before
    assert {child.pid for child in processes.children()} <= children


@pytest.mark.parametrize("what", ["openpty", "pipe"])
def test_no_more_descriptors(monkeypatch, what):
    def refuse(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    before = conftest.open_descriptors()
    monkeypatch.setattr(os, what, refuse)
    with pytest.raises(StreamError, match="Too many open files"):
        spawn.start(["true"], tty=True, err=True)
    monkeypatch.undo()
    assert conftest.open_descriptors() == before


@pytest.mark.parametrize(
    "status, text",
    [
        (None, "process still running"),
        (0, "process exited with status 0"),
        (255, "process exited with status 255"),
        (-9, "process was ended by signal 9"),
    ],
)
def test_status_text(status, text):
    assert spawn.status_text(status) == text


# ---- reaping


class Proc:
    """A fake subprocess.Popen that exits on a signal in `deadly`, or at a time."""

    pid = 0x7FFFFFF0  # unused

    def __init__(self, net, deadly=(), at=None):
        self.net = net
        self.deadly = deadly
        self.at = at
        self.signals = []

    def poll(self):
        if self.at is not None and self.net.time >= self.at:
            return 0
        return next((-n for _, n in self.signals if n in self.deadly), None)


@pytest.fixture
def reap(net, monkeypatch):
    def run(proc):
        broker = nodes.Broker(net)
        net.nodes.append(type("Node", (), {"broker": broker, "serving": False}))
        monkeypatch.setattr(
            os, "kill", lambda pid, number: proc.signals.append((net.time - 1000, number))
        )
        done = []
        spawn.Process(proc, 0).reap(broker, lambda status: done.append((net.time, status)))
        net.advance(20)
        return done, broker

    return run


def test_the_end_of_a_process_is_an_event(net):
    """Programs listen for `exit` of `stream.conn.proc`."""
    (node,) = net.line(1)
    process, seen = spawn.Process(Proc(net, at=0), 0), []
    core.listen(process, "exit", seen.append)
    process.reap(node.broker, seen.append)
    assert len(seen) == 2 and seen[0] == seen[1]


def test_an_exited_process_is_reaped_at_once(net, reap):
    done, broker = reap(Proc(net, at=0))
    assert done == [(1000, 0)] and not broker.timers


def test_a_process_that_exits_by_itself_gets_no_signal(net, reap):
    proc = Proc(net, at=1001)
    done, broker = reap(proc)
    assert len(done) == 1 and 1001 <= done[0][0] <= 1000 + 1 + spawn.LONGEST_POLL
    assert proc.signals == [] and not broker.timers


def test_a_process_that_runs_on_gets_sigterm_then_sigkill(net, reap):
    proc = Proc(net, deadly=[signal.SIGKILL])
    done, broker = reap(proc)
    assert [number for _, number in proc.signals] == [signal.SIGTERM, signal.SIGKILL]
    for (at, _), wanted in zip(proc.signals, (spawn.TERM_AFTER, spawn.KILL_AFTER)):
        assert abs(at - wanted) <= spawn.LONGEST_POLL
    assert [status for _, status in done] == [-9] and not broker.timers


def test_sigterm_suffices(net, reap):
    proc = Proc(net, deadly=[signal.SIGTERM])
    done, _ = reap(proc)
    assert [number for _, number in proc.signals] == [signal.SIGTERM] and done[0][1] == -15


def test_a_signal_goes_to_its_own_process_only(start):
    process = start(["true"])
    process.proc.wait()
    process.signal(signal.SIGKILL)  # reaped: the pid may be reused by now
    process = start(["cat"])
    process.signal(signal.SIGTERM)
    assert process.proc.wait() == -15


def test_the_group_of_a_dead_process_is_terminated(net, start):
    process = start(sh("sleep 60 & echo $!; exit 0"))
    sleeper = int(os.read(process.pipe, 99))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    done = []
    process.reap(nodes.Broker(net), done.append)
    assert done == [0]
    assert read_until_eof(process.pipe) == b""  # the sleeper held it open
    assert subprocess.run(["kill", "-0", str(sleeper)], capture_output=True).returncode in (0, 1)


# ---- accounts


def test_accounts_below_lists_descendants():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        own = spawn.accounts_below(os.getpid())
    assert len(own) >= 2 and own[0] == {*os.getresuid()} and own[1] == {os.getuid()}


def test_a_zombie_is_not_of_any_account():
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as proc:
        os.waitid(os.P_PID, proc.pid, os.WEXITED | os.WNOWAIT)
        assert -1 in spawn.accounts_below(proc.pid)[0]


def test_nothing_is_known_of_a_process_that_is_not_shown():
    with subprocess.Popen(["true"]) as proc:
        pass
    assert spawn.accounts_below(proc.pid) is None and spawn.has_reaped(proc.pid)


@pytest.mark.parametrize("script, reaped", [("read x", False), ("/bin/true; read x", True)])
def test_has_reaped(script, reaped):
    words = ["sh", "-c", script.replace("read", "echo up; read")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proc:
        assert proc.stdout.readline() == b"up\n"
        assert spawn.has_reaped(proc.pid) is reaped
        proc.stdin.close()
