"""parent_names.py: names of mitogen.parent in old releases."""

import logging
import os
import signal
import subprocess
import sys
import termios
import threading
import zlib

import pytest

from mitogen import core, master, parent
from mitogen.compat import parent_names

SOON = 20.0


def close(process):
    for fp in (process.stdin, process.stdout, process.stderr):
        if fp:
            fp.close()


def wait(process):
    return process.proc.wait(SOON)


def read_all(fp):
    """Read to the end, which for a terminal on Linux is EIO."""
    found = b""
    while True:
        try:
            data = fp.read(4096)
        except OSError:
            return found
        if not data:
            return found
        found += data


# ---- starting programs


@pytest.mark.parametrize("escalates", [False, True])
def test_create_child(escalates):
    process = parent.create_child(["cat"], escalates_privilege=escalates)
    process.stdin.write(b"there and back")
    process.stdin.close()
    assert process.stdout.read() == b"there and back"
    assert wait(process) == 0 and process.poll() == process.returncode == 0
    process.terminate()  # after its end: no signal is sent
    close(process)
    assert repr(process) == "PopenProcess(pid %d)" % process.pid


@pytest.mark.parametrize(
    "options, out, err",
    [
        ({"merge_stdio": True}, b"out\nerr\n", None),
        ({"stderr_pipe": True}, b"out\n", b"err\n"),
    ],
)
def test_destination_of_standard_error(options, out, err):
    process = parent.create_child(["sh", "-c", "echo out; echo err >&2"], **options)
    process.stdin.close()
    assert read_all(process.stdout) == out
    assert (process.stderr and process.stderr.read()) == err
    wait(process)
    close(process)


def test_preexec_fn():
    process = parent.create_child(["sh", "-c", "umask"], preexec_fn=lambda: os.umask(0o77))
    assert read_all(process.stdout).strip() == b"0077"
    wait(process)
    close(process)


@pytest.mark.parametrize(
    "create", [parent.create_child, parent.tty_create_child, parent.hybrid_tty_create_child]
)
def test_missing_program_is_an_error(create):
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        create(["/nonexistent/program"])
    assert sorted(os.listdir("/proc/self/fd")) == before


TTY = "import os; print(os.ttyname(0), os.isatty(1), os.isatty(2), open('/dev/tty').name)"


def test_tty_create_child():
    process = parent.tty_create_child([sys.executable, "-c", TTY])
    name, one, two, tty = read_all(process.stdout).split()
    assert name.startswith(b"/dev/") and (one, two, tty) == (b"True", b"True", b"/dev/tty")
    assert wait(process) == 0
    close(process)


def test_terminal_does_not_hang_up_before_the_program_opens_it():
    for _ in range(5):
        process = parent.tty_create_child(["cat"])
        process.stdin.write(b"x\n\x04")
        assert process.stdout.read(1) == b"x"
        process.kill()
        assert wait(process) == -signal.SIGKILL
        close(process)


HYBRID = """
import os, sys
with open('/dev/tty', 'r+b', 0) as tty:
    tty.write(b'password: ')
    sys.stdout.write('%s %s %s' % (os.isatty(0), os.isatty(2), tty.read(6).decode()))
"""


@pytest.mark.parametrize("escalates", [False, True])
def test_hybrid_tty_create_child(escalates):
    process = parent.hybrid_tty_create_child([sys.executable, "-c", HYBRID], escalates)
    assert process.stderr.read(100) == b"password: "
    process.stderr.write(b"secret")
    assert read_all(process.stdout) == b"False True secret"
    assert wait(process) == 0
    close(process)


def test_popen():
    with parent.popen(args=["true"]) as proc:
        assert isinstance(proc, subprocess.Popen) and proc.wait() == 0


@pytest.mark.parametrize("blocking", [None, True, False])
@pytest.mark.parametrize(
    "make",
    [
        parent.create_socketpair,
        parent.create_best_pipe,
        lambda blocking: parent.create_best_pipe(True, blocking),
    ],
)
def test_pairs(make, blocking):
    reader, writer = make(blocking=blocking)
    with reader, writer:
        writer.write(b"x")
        assert reader.read(1) == b"x"
        assert os.get_blocking(reader.fileno()) is (blocking is not False)


def test_a_process_by_its_pid():
    pid = os.fork()
    if not pid:
        os._exit(3)
    process = parent.Process(pid, None, None)
    while process.poll() is None:
        pass
    assert process.poll() == 3
    pid = os.fork()
    if not pid:
        signal.pause()
    process = parent.Process(pid, None, None)
    assert process.poll() is None
    process.terminate()
    while process.poll() is None:
        pass
    assert process.poll() == -signal.SIGTERM
    process.kill()
    gone = parent.Process(pid, None, None)
    assert gone.poll() == 0, "reaped by somebody else"


@pytest.fixture
def broker():
    with master.Router() as router:
        yield router.broker


def test_a_reaper_reaps(broker):
    process = parent.create_child(["cat"])
    ended = threading.Event()
    core.listen(process, "exit", ended.set)
    parent.Reaper(broker, process, False, True).reap()
    close(process)
    assert ended.wait(SOON) and process.returncode == 0 and not broker.holds


def test_a_reaper_kills(broker, monkeypatch):
    monkeypatch.setattr(parent_names.spawn, "TERM_AFTER", 0.0)
    process = parent.create_child(["sleep", "1000"])
    ended = threading.Event()
    core.listen(process, "exit", ended.set)
    parent.Reaper(broker, process, True, False).reap()
    assert ended.wait(SOON) and process.returncode == -signal.SIGTERM
    close(process)


def test_shutdown_waits_for_the_reaper_with_a_limit(broker):
    broker.shutdown_timeout = 0.05
    process = parent.create_child(["sleep", "1000"])
    parent.Reaper(broker, process, False, True).reap()
    broker.shutdown()
    broker.join()
    assert process.poll() is None
    process.kill()
    wait(process)
    close(process)


# ---- terminals


def test_flags():
    assert parent.flags("ECHO ICANON") == termios.ECHO | termios.ICANON
    assert parent.flags("") == parent.flags("NO_SUCH_FLAG") == 0


def test_new_terminal_passes_bytes_unchanged():
    ours, slave = parent.openpty()
    with ours, slave:
        before = termios.tcgetattr(slave.fileno())
        assert not before[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
        assert parent.cfmakeraw(before) == before
        ours.write(b"a\rb\x03\n")
        assert slave.read(10) == b"a\rb\x03\n"
        slave.write(b"\n")
        assert ours.read(10) == b"\n"


def test_disable_echo():
    master_fd, slave_fd = os.openpty()
    assert termios.tcgetattr(slave_fd)[3] & termios.ECHO
    parent.disable_echo(slave_fd)
    assert not termios.tcgetattr(slave_fd)[3] & termios.ECHO
    os.close(master_fd)
    os.close(slave_fd)


def test_openpty_without_free_terminals(monkeypatch):
    def fail():
        raise OSError(28, "out of pty devices")

    monkeypatch.setattr(os, "openpty", fail)
    with pytest.raises(core.StreamError, match="out of pty devices"):
        parent.openpty()


# ---- text, logs, source


@pytest.mark.parametrize(
    "argv, text", [(["a", "b c", "d'e"], "a 'b c' 'd'\"'\"'e'"), ([], ""), ([b"x"], "x")]
)
def test_argv(argv, text):
    assert str(parent.Argv(argv)) == text


def test_call_spec():
    assert str(parent.CallSpec(os.path.join, ("a", 1), {})) == "posixpath.join('a', 1)"
    assert str(parent.CallSpec(wait, (), {"x": None})).endswith("test_parent_names.wait(x=None)")


@pytest.mark.parametrize(
    "status, text", [(0, "status 0"), (127, "status 127"), (-9, "signal 9"), (None, "running")]
)
def test_returncode_to_str(status, text):
    assert text in parent.returncode_to_str(status)


def test_partial_zlib():
    partial = parent.PartialZlib(b"x" * 1000)
    for end in (b"", b"end", b"other"):
        assert zlib.decompress(partial.append(end)) == b"x" * 1000 + end
    found = zlib.decompress(parent.get_core_source_partial().append(b"#end"))
    assert b"class Router" in found and found.endswith(b"#end")


def test_get_log_levels():
    loggers = [logging.Logger("a", logging.INFO), logging.Logger("b")]
    assert parent.get_log_levels(loggers) == {"a": logging.INFO}


# ---- aliases


def test_pollers():
    assert parent.PREFERRED_POLLER in parent.POLLERS and parent.POLLER_LIGHTWEIGHT is core.Poller
    broker = core.Broker(poller_class=parent.PREFERRED_POLLER)
    assert broker.defer_sync(lambda: 5) == 5
    broker.shutdown()
    broker.join()
    broker.poller.close()


def test_a_policy_and_a_text(broker):
    assert parent.is_immediate_child is core.is_neighbour
    assert core.Router.unidirectional_msg == parent.Branch.unidirectional_msg


def test_defer_sync_of_any_broker():
    broker = core.Broker()
    with pytest.raises(ZeroDivisionError):
        broker.defer_sync(lambda: 1 / 0)
    broker.shutdown()
    broker.join()
    with pytest.raises(core.Error, match="ended"):
        broker.defer_sync(int)
