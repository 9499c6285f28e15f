"""context.run() and context.popen(): the subprocess API in other contexts, and its errors."""

import collections
import os
import pathlib
import pwd
import signal
import subprocess
import threading

import pytest

import mitogen.core
from mitogen import process
from mitogen.programs import client, endpoints, grants, pipes
from tests import processes
from tests.integration.conftest import SOON
from tests.integration.far import programs

SH = "/bin/sh"
#: A program that reports when it is ready, then waits for signals forever.
WAITS = 'trap "echo got $1; exit 3" USR1; echo ready; while :; do sleep 0.05; done'


@pytest.fixture(scope="module")
def local(router):
    return router.local()


@pytest.fixture(scope="module")
def deep(router):
    """Yield a context three hops away."""
    context = None
    for _ in range(3):
        context = router.local(via=context)
    return context


@pytest.fixture(params=["local", "deep", "self"])
def anywhere(request, router):
    if request.param == "self":
        return router.myself()
    return request.getfixturevalue(request.param)


def outcome(function):
    """Return the result of a run: (status, output, error), or the exception's type and facts."""
    try:
        done = function()
    except Exception as e:
        kind = next(
            each
            for each in type(e).__mro__
            if each.__module__ in ("builtins", "subprocess") and each is not object
        )
        facts = [getattr(e, name, None) for name in ("errno", "returncode", "output", "stderr")]
        return kind, facts
    return done.args, done.returncode, done.stdout, done.stderr


# (arguments, keyword arguments) for both. A command string is run by the shell.
TABLE = [
    (["true"], {}),
    (["false"], {}),
    ([SH, "-c", "exit 7"], {}),
    ([SH, "-c", "exit 126"], {}),
    ([SH, "-c", "exit 127"], {}),
    ([SH, "-c", "exit 255"], {}),
    ([SH, "-c", "kill -TERM $$"], {}),
    ([SH, "-c", "kill -KILL $$"], {}),
    ([SH, "-c", "kill -USR1 $$"], {}),
    ([SH, "-c", "kill -SEGV $$"], {}),
    ([SH, "-c", "echo out; echo err >&2"], {}),
    ([SH, "-c", "printf '\\000\\377'"], {}),
    (["cat"], {"input": b""}),
    (["cat"], {"input": b"some\r\nbytes\xff\x00"}),
    (["cat"], {"input": bytearray(b"bytearray")}),
    (["cat"], {"input": memoryview(b"memoryview")}),
    (["cat"], {"input": b"x" * 3000000}),
    (["cat"], {"input": "text\u20ac\n", "text": True}),
    (["cat"], {"input": "no bytes"}),
    (["true"], {"input": b"x" * 3000000}),
    ([SH, "-c", "printf 'a\\r\\nb\\rc\\n'"], {"text": True}),
    ([SH, "-c", "printf '\\303\\251'"], {"text": True}),
    ([SH, "-c", "exec <&-; exit 3"], {"input": b"x" * 3000000}),
    ([SH, "-c", "exit 7"], {"check": True}),
    ([SH, "-c", "echo out; echo err >&2; exit 7"], {"check": True}),
    ([SH, "-c", "echo out; echo err >&2; exit 7"], {"check": True, "text": True}),
    (["true"], {"check": True}),
    ([SH, "-c", "kill -KILL $$"], {"check": True}),
    ([SH, "-c", "exit 7"], {"capture_output": False}),
    (["pwd"], {"cwd": "/usr"}),
    (["pwd"], {"cwd": pathlib.Path("/usr")}),
    (["pwd"], {"cwd": b"/usr"}),
    (["pwd"], {"cwd": "/no such directory"}),
    (["pwd"], {"cwd": "/etc/passwd"}),
    (["env"], {"env": {}}),
    (["env"], {"env": {"A": "1", "PATH": os.defpath}}),
    (["env"], {"env": {"A": "\u20ac", b"B": b"\xff"}}),
    (["env"], {"env": {"A=B": "1"}}),
    (["env"], {"env": {"A": 1}}),
    ([SH, "-c", "echo $A"], {"env": {"A": "two words"}}),
    (["no such program"], {}),
    (["/no/such/program"], {}),
    (["/etc/passwd"], {}),
    (["/etc"], {}),
    ([""], {}),
    (["a\0b"], {}),
    ([b"echo", b"\xff", pathlib.Path("/tmp")], {}),
    (pathlib.Path("/bin/true"), {}),
    (("echo", "a tuple"), {}),
    (["echo", 1], {}),
    ([SH, "-c", "echo $0 $# $1", "name", "two words"], {}),
    (["sleep", "100"], {"timeout": 0.2}),
    ([SH, "-c", "echo so far; exec sleep 100"], {"timeout": 0.7}),
    (["true"], {"timeout": 100}),
    (["cat"], {"input": b"in", "timeout": 100}),
    ("echo $((6*7)); exit 3", {}),
    ("echo 'two  words' | tr a-z A-Z", {"text": True}),
    ("", {}),
    ("no such command", {"text": True, "env": {"LC_ALL": "C"}}),
    ("true", {"cwd": "/no such directory"}),
]


def ids(value):
    return repr(value)[:60] if isinstance(value, (list, str, tuple)) else None


@pytest.mark.parametrize(("args", "kwargs"), TABLE, ids=ids)
def test_run_is_subprocess_run(args, kwargs, local):
    shell = pwd.getpwuid(os.getuid()).pw_shell

    def here():
        more = {"capture_output": True, **kwargs}
        if "input" not in kwargs:
            more["stdin"] = subprocess.DEVNULL
        if isinstance(args, str):
            more.update(shell=True, executable=shell)
        home = os.path.expanduser("~")
        return subprocess.run(args, **{"cwd": home, **more})

    ours, theirs = outcome(lambda: local.run(args, **kwargs)), outcome(here)
    if isinstance(args, str) and ours[1] == 127:
        # Some shells' messages contain "LINE: " only where the shell's name is known.
        ours, theirs = ours[:2], theirs[:2]
    if args == pathlib.Path("/bin/true"):
        ours, theirs = ours[1:], theirs[1:]
    assert ours == theirs


def test_an_empty_list_is_an_error(local):
    with pytest.raises(ValueError, match="args is empty"):
        local.run([])


def test_output_that_is_not_captured_goes_to_this_process_output(local, capfd):
    done = local.run([SH, "-c", "echo out; echo err >&2"], capture_output=False)
    assert (done.stdout, done.stderr) == (None, None)
    assert capfd.readouterr() == ("out\n", "err\n")


def test_a_command_string_runs_in_the_home_directory_under_the_login_shell(reached):
    context, user = reached.context, reached.user
    found = context.run("id -un; pwd; echo $0", text=True).stdout.split("\n")
    entry = subprocess.run(
        ["getent", "passwd", user or found[0]], capture_output=True, text=True, check=True
    ).stdout.strip()
    name, _, _, _, _, home, shell = entry.split(":")
    assert found[:2] == [name, home] and found[2] == os.path.basename(shell)


def test_each_kind_of_context_runs_programs(reached):
    context = reached.context
    data = os.urandom(300000)
    assert context.run(["cat"], input=data).stdout == data
    assert context.run([SH, "-c", "exit 7"]).returncode == 7
    assert context.run("tty", pty=True, text=True).stdout.startswith("/dev/pts/")


def test_callbacks_receive_output_as_it_arrives(anywhere):
    found = []
    done = anywhere.run(
        [SH, "-c", 'echo one; echo "two" >&2; exit 2'],
        on_stdout=lambda data: found.append(("out", data)),
        on_stderr=lambda data: found.append(("err", data)),
    )
    assert sorted(found) == [("err", b"two\n"), ("out", b"one\n")]
    assert (done.stdout, done.stderr, done.returncode) == (b"one\n", b"two\n", 2)


def test_text_callbacks_receive_whole_characters(local):
    found = []
    script = "printf '\\303'; sleep 0.1; printf '\\251\\n'"
    done = local.run([SH, "-c", script], text=True, on_stdout=found.append)
    assert "".join(found) == "\u00e9\n" == done.stdout
    assert "\ufffd" not in "".join(found)


def test_an_error_in_a_callback_ends_the_program(local):
    def fail(data):
        raise KeyError(data)

    with pytest.raises(KeyError):
        local.run([SH, "-c", "echo x; exec sleep 1000"], on_stdout=fail)
    processes.wait_until(lambda: local.call(programs.known_programs)[0] == 0, SOON)


def test_status_and_output_are_complete_200_times(anywhere):
    """The status never arrives before the waiter is registered, nor before the output."""
    for _ in range(200):
        done = anywhere.run([SH, "-c", "echo x; exit 7"])
        assert (done.returncode, done.stdout) == (7, b"x\n")


def test_fifty_programs_run_concurrently(anywhere):
    found = []

    def one(number):
        data = str(number).encode() * 10000
        found.append(anywhere.run(["cat"], input=data).stdout == data)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 50


def test_input_and_output_do_not_block_each_other(anywhere):
    """Send twenty windows each way, through a program that reads only as fast as it can print."""
    data = os.urandom(20 * pipes.WINDOW)
    assert anywhere.run(["cat"], input=data).stdout == data


def test_unread_stderr_does_not_block_stdout(anywhere):
    script = "(head -c 5000000 /dev/zero >&2) & head -c 5000000 /dev/zero"
    with anywhere.popen([SH, "-c", script]) as popen:
        assert len(popen.stdout.read(5000000)) == 5000000


def test_end_of_input_leaves_output_open(anywhere):
    with anywhere.popen([SH, "-c", "cat; echo done"]) as popen:
        popen.stdin.write(b"some ")
        assert popen.stdout.read(5) == b"some "
        popen.stdin.write(b"more")
        popen.stdin.close()
        assert popen.stdout.read() == b"moredone\n"
        assert popen.wait(SOON) == 0


def test_closing_the_output_is_a_sigpipe(anywhere):
    with anywhere.popen(["yes"], stderr=process.DEVNULL) as popen:
        assert popen.stdout.read(2) == b"y\n"
        popen.stdout.close()
        assert popen.wait(SOON) == -signal.SIGPIPE


def test_writing_to_a_closed_input_is_a_broken_pipe(anywhere):
    with anywhere.popen([SH, "-c", "exec <&-; echo closed; sleep 1000"]) as popen:
        assert popen.stdout.readline() == b"closed\n"
        with pytest.raises(BrokenPipeError, match="no longer reads its standard input"):
            while True:
                popen.stdin.write(b"x" * 65536)


def test_offer_never_blocks(anywhere):
    with anywhere.popen([SH, "-c", "echo ready; sleep 1000"]) as popen:
        assert popen.stdout.readline() == b"ready\n"
        taken = 0
        while popen.stdin.offer(b"x" * 65536):
            taken += 65536
            assert taken < 4 * (pipes.WINDOW + client.INPUT_QUEUE)
        assert taken >= client.INPUT_QUEUE


def test_signals_reach_the_group_by_name_and_by_number(anywhere):
    for signum in (signal.SIGUSR1, "USR1", "SIGUSR1"):
        with anywhere.popen([SH, "-c", WAITS]) as popen:
            assert popen.stdout.readline() == b"ready\n"
            popen.send_signal(signum)
            assert popen.stdout.readline().startswith(b"got")
            assert popen.wait(SOON) == 3
    with anywhere.popen(["sleep", "1000"]) as popen:
        popen.terminate()
        assert popen.wait(SOON) == -signal.SIGTERM
    with anywhere.popen(["sleep", "1000"]) as popen:
        popen.kill()
        assert popen.wait(SOON) == -signal.SIGKILL


@pytest.mark.parametrize("signum", ["NONE", "", 0, 4711])
def test_an_unknown_signal_is_refused(signum, local):
    with local.popen(["sleep", "1000"]) as popen, pytest.raises(ValueError):
        popen.send_signal(signum)


def test_methods_work_before_and_after_the_end(anywhere):
    with anywhere.popen(["sleep", "1000"]) as popen:
        assert popen.poll() is None and popen.returncode is None
        with pytest.raises(subprocess.TimeoutExpired):
            popen.wait(0.01)
        popen.kill()
        assert popen.wait(SOON) == popen.wait() == popen.poll() == -9
        popen.kill()
        popen.resize(1, 1)
        popen.close()
        popen.close()
        called = threading.Event()
        popen.when_done(lambda popen: called.set())
        assert called.wait(SOON)


def test_keep_stores_all_output(anywhere):
    """It is larger than a window, so credit must be granted meanwhile."""
    size = 3 * 1048576
    output, errors = endpoints.Keep(), endpoints.Keep()
    script = "head -c {} /dev/zero; echo no >&2; cat; exit 3".format(size)
    with anywhere.popen([SH, "-c", script], stdout=output, stderr=errors) as popen:
        assert popen.stdout is None
        process.feed(popen, b"last")
        assert popen.wait(SOON) == 3
    assert b"".join(output.chunks) == bytes(size) + b"last"
    assert errors.chunks == [b"no\n"]


def test_when_done_calls_each_callback_once(local):
    """The callback is registered before the end, after it, and while the broker runs callbacks."""
    with local.popen(["cat"], stdout=process.DEVNULL) as popen:
        called = collections.Counter()
        third = threading.Event()

        def second(_):
            called["second"] += 1
            popen.when_done(lambda _: (called.update(["third"]), third.set()))

        popen.when_done(second)
        popen.stdin.close()
        popen.wait(SOON)
        assert third.wait(SOON)
        last = threading.Event()
        popen.when_done(lambda _: last.set())
        assert last.wait(SOON)
    assert called == {"second": 1, "third": 1}


def test_communicate_may_be_called_again_after_its_timeout(anywhere):
    with anywhere.popen([SH, "-c", "echo one; read x; echo $x; sleep 0.5; echo three"]) as popen:
        with pytest.raises(subprocess.TimeoutExpired):
            popen.communicate(b"two\n", timeout=0.2)
        assert popen.communicate(timeout=SOON) == (b"one\ntwo\nthree\n", b"")


def test_stderr_into_stdout_in_order(anywhere):
    script = "echo 1; echo 2 >&2; echo 3"
    with anywhere.popen([SH, "-c", script], stderr=process.STDOUT) as popen:
        assert popen.communicate() == (b"1\n2\n3\n", None)


def test_stdio_may_be_descriptors_of_this_process(anywhere, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3000000))
    with open(str(source), "rb") as stdin, open(str(target), "wb") as stdout:
        popen = anywhere.popen(["cat"], stdin=stdin, stdout=stdout, stderr=process.DEVNULL)
    assert popen.wait(SOON) == 0
    assert target.read_bytes() == source.read_bytes()


def test_a_pipe_of_this_process_stays_blocking(anywhere):
    """Descriptors may be shared with programs that cannot handle EAGAIN."""
    rfd, wfd = os.pipe()
    popen = anywhere.popen(["head", "-c", "3000000", "/dev/zero"], stdout=wfd)
    assert os.get_blocking(wfd)
    os.close(wfd)
    with open(rfd, "rb") as reader:
        assert len(reader.read()) == 3000000
    assert popen.wait(SOON) == 0


def test_a_program_does_not_inherit_anothers_descriptors(anywhere):
    """Each program ends when its own input ends, no matter which was started later."""
    cats = [anywhere.popen(["cat"]) for _ in range(3)]
    for cat in cats:
        cat.stdin.close()
        assert cat.wait(SOON) == 0


def test_a_program_has_its_own_session_and_no_descriptors(local):
    with local.popen([SH, "-c", "ls /proc/self/fd; echo end; read x"]) as popen:
        names = list(iter(popen.stdout.readline, b"end\n"))
        # The fourth is the descriptor of the directory itself.
        assert names == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert local.call(programs.leader_of, popen.pid) == (popen.pid, popen.pid)


def test_signals_have_the_defaults_of_a_shell(local):
    names = "SigIgn SigBlk"
    text = local.run(["cat", "/proc/self/status"], text=True).stdout
    found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert [int(found[name], 16) for name in names.split()] == [0, 0]


# -- terminals


def test_a_terminal_has_its_size_and_type(anywhere):
    pty = process.Pty("vt220", 132, 50)
    done = anywhere.run("tty; stty size; echo $TERM $SSH_TTY; echo err >&2", pty=pty, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:] == ["50 132", "vt220 " + lines[0], "err"] and done.stderr == ""


def test_end_of_input_on_a_terminal_is_a_character(anywhere):
    for data, shown in (("line\n", "line\nline\n"), ("no newline", "no newlineno newline")):
        assert anywhere.run(["cat"], pty=True, input=data, text=True).stdout == shown


def test_a_login_shell_runs_on_a_terminal(anywhere):
    with anywhere.popen(None, pty=True) as popen:
        popen.stdin.write(b"echo 0=$0; stty -echo; echo pid-$$-; exit 5\n")
        text = popen.stdout.read().decode()
        assert popen.wait(SOON) == 5
    assert "0=-" in text, text


def test_a_missing_program_on_a_terminal_is_an_error(anywhere):
    for args, error in ((["no such"], FileNotFoundError), (["/etc/passwd"], PermissionError)):
        with pytest.raises(error):
            anywhere.run(args, pty=True)


def test_resize_sends_sigwinch(anywhere):
    script = 'trap "stty size; exit" WINCH; echo ready; while :; do sleep 0.05; done'
    with anywhere.popen([SH, "-c", script], pty=True) as popen:
        assert popen.stdout.readline() == b"ready\r\n"
        popen.resize(0, 0)
        popen.resize(132, 50)
        assert popen.stdout.readline() == b"50 132\r\n"


def test_a_background_job_does_not_keep_the_terminal(anywhere):
    done = anywhere.run([SH, "-c", "trap '' HUP; sleep 1000 & echo $!"], pty=True, timeout=SOON)
    pid = int(done.stdout)
    os.kill(pid, signal.SIGKILL)


def test_interrupt_on_a_terminal_discards_pending_output(anywhere):
    with anywhere.popen(["yes"], pty=True) as popen:
        popen.stdout.read(100000)
        popen.stdin.write(b"\x03")
        rest = popen.stdout.read()
        assert popen.wait(SOON) == -signal.SIGINT
        assert len(rest) < 2 * pipes.PTY_WINDOW + 65536


# -- ends


def test_a_background_job_may_keep_the_output_open(anywhere):
    with anywhere.popen([SH, "-c", "cat <&3 3<&- & exit 3"], stdin=process.DEVNULL) as popen:
        popen.wait(SOON)
    done = anywhere.run([SH, "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], timeout=SOON)
    os.kill(int(done.stdout), signal.SIGKILL)
    with anywhere.popen([SH, "-c", "sleep 1000 & echo $!"]) as popen:
        pid = int(popen.stdout.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            popen.wait(0.3)
        os.kill(pid, signal.SIGKILL)
        assert popen.wait(SOON) == 0


STUBBORN = 'trap "" HUP TERM; sleep 1000 & echo $$ $!; while :; do sleep 1; done'


@pytest.mark.parametrize("args", [["sleep", "1000"], [SH, "-c", STUBBORN]])
def test_an_abandoned_program_ends_with_its_children(args, local):
    # There is no grace period on a terminal.
    with local.popen(args, pty=True) as popen:
        pids = [popen.pid]
        if len(args) > 2:
            pids = list(map(int, popen.stdout.readline().split()))
    processes.wait_until(lambda: not any(map(processes.alive, pids)), SOON)
    processes.wait_until(lambda: local.call(programs.known_programs)[0] == 0, SOON)


def test_close_leaves_time_to_end(local):
    """A program that ends by itself when its input ends is not killed."""
    with local.popen([SH, "-c", "echo ready; cat >/dev/null; sleep 0.5; exec true"]) as popen:
        assert popen.stdout.readline() == b"ready\n"
        popen.close()
        assert popen.wait(SOON) == 0


def test_shutdown_of_the_context_ends_the_program(own_router):
    context = own_router.local()
    popen = context.popen(["sleep", "1000"])
    context.shutdown(wait=True)
    assert not processes.alive(popen.pid)
    assert popen.wait(SOON) == -signal.SIGHUP


def test_shutdown_of_the_context_ends_a_closed_program(own_router):
    context = own_router.local()
    popen = context.popen(["sleep", "1000"])
    popen.close()
    context.call(os.getpid)
    context.shutdown(wait=True)
    assert not processes.alive(popen.pid)


@pytest.mark.parametrize("args", [["sleep", "1000"], [SH, "-c", STUBBORN]])
def test_a_killed_context_ends_its_programs(args, own_router):
    """The guard ends the context's programs."""
    context = own_router.local()
    popen = context.popen(args)
    pids = [popen.pid]
    if len(args) > 2:
        pids = list(map(int, popen.stdout.readline().split()))
    context.call_no_reply(programs.kill_yourself, int(signal.SIGKILL))
    with pytest.raises(mitogen.core.ChannelError, match="sleep"):
        popen.wait(SOON)
    assert popen.poll() is None and popen.error
    processes.wait_until(lambda: not any(map(processes.alive, pids)), SOON)


def test_a_program_in_an_ended_context_is_an_error(own_router):
    context = own_router.local()
    context.shutdown(wait=True)
    with pytest.raises(mitogen.core.ChannelError):
        context.run(["true"])


def test_broker_shutdown_ends_the_program(own_router):
    context = own_router.local()
    popen = context.popen(["yes"])
    own_router.broker.shutdown()
    own_router.broker.join()
    popen.stdout.read()
    processes.wait_until(lambda: not processes.alive(popen.pid), SOON)
    # The status may have arrived in time.
    assert popen.returncode in (-signal.SIGHUP, -signal.SIGPIPE) or popen.error


def test_nothing_is_kept_of_an_ended_program(local):
    local.run(["true"])
    here = len(local.router.handlers)
    there = local.call(programs.known_programs)
    for _ in range(5):
        local.run([SH, "-c", "exit 1"])
        with pytest.raises(FileNotFoundError):
            local.run(["no such program"])
    processes.wait_until(lambda: len(local.router.handlers) == here, SOON)
    processes.wait_until(lambda: local.call(programs.known_programs) == there, SOON)


# -- endpoints that are not programs


def test_a_connection_passes_data_both_ways(anywhere):
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        with anywhere.popen(process.Connect("127.0.0.1", server.getsockname()[1])) as popen:
            connection, _ = server.accept()
            with connection:
                popen.stdin.write(b"there")
                popen.stdin.close()
                assert connection.makefile("rb").read() == b"there"
                connection.sendall(b"back")
            assert popen.stdout.read() == b"back"
            assert popen.wait(SOON) == 0


def test_a_refused_connection_is_an_error(anywhere):
    with pytest.raises(process.Refused, match="cannot connect to 127.0.0.1 port 1: .*refused"):
        anywhere.popen(process.Connect("127.0.0.1", 1))


def test_an_unknown_subsystem_is_refused(anywhere):
    with pytest.raises(process.Refused, match="no subsystem 'nope'; the only one is sftp"):
        anywhere.popen(process.Subsystem("nope"))


@pytest.mark.parametrize("builtin", [False, True])
def test_the_sftp_subsystem_answers(builtin, anywhere):
    """The server answers INIT with VERSION 3 (draft-ietf-secsh-filexfer-02, section 4)."""
    with anywhere.popen(process.Subsystem("sftp", builtin)) as popen:
        popen.stdin.write(b"\0\0\0\5\1\0\0\0\3")
        size = int.from_bytes(popen.stdout.read(4), "big")
        assert popen.stdout.read(size)[:5] == b"\2\0\0\0\3"
        popen.stdin.close()
        assert popen.wait(SOON) == 0


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        (["true"], {"env": {"A": 1}}, TypeError),
        ([1], {}, TypeError),
        (1, {}, TypeError),
        (["true"], {"cwd": 1}, TypeError),
        (["true"], {"stdin": "no file"}, AttributeError),
        (["true"], {"stdout": -7}, ValueError),
        (["true"], {"nonsense": 1}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_at_once(args, kwargs, error, local):
    before = len(local.router.handlers)
    with pytest.raises(error):
        local.popen(args, **kwargs)
    processes.wait_until(lambda: len(local.router.handlers) == before, SOON)


def test_the_oldest_and_the_newest_python_run_programs(pythons, router):
    """Use the oldest and the newest Python available."""
    versions = [version for version in pythons if version >= (3, 6)]
    for version in (min(versions), max(versions)):
        context = router.local(python_path=pythons[version])
        done = context.run([SH, "-c", "cat; exit 3"], input=b"x" * 100000)
        assert (done.returncode, len(done.stdout)) == (3, 100000)
        assert context.run("tty", pty=True).stdout.startswith(b"/dev/pts/")
        context.shutdown(wait=True)


def test_a_stalled_reader_costs_a_window(local):
    """The data held for a program whose output is not read is a window and one read."""
    with local.popen(["cat", "/dev/zero"]) as popen:
        reader = popen.buffers[0]
        processes.wait_until(lambda: sum(map(len, reader.chunks)) == pipes.WINDOW, SOON)
        local.call(programs.known_programs)
        assert sum(map(len, reader.chunks)) == pipes.WINDOW


# -- between contexts


def test_a_sibling_may_be_used_only_if_granted(own_router, records):
    left, right = own_router.local(name="left"), own_router.local(name="right")
    with pytest.raises(mitogen.core.CallError, match="no ancestor of both has granted it"):
        left.call(programs.run_there, right, ["cat"], b"data")
    with grants.allow(left, right):
        data = os.urandom(3000000)
        assert left.call(programs.run_there, right, ["cat"], data) == (0, data)
        with pytest.raises(mitogen.core.CallError):
            right.call(programs.run_there, left, ["cat"], data)
    with pytest.raises(mitogen.core.CallError):
        left.call(programs.run_there, right, ["cat"], b"data")
    assert right.call(programs.known_programs)[0] == 0


@pytest.mark.parametrize("closed", ["exec 0<&- 1>&- 2>&-", "exec <&- >&- 2>&- 3>&-"])
def test_a_program_may_close_its_terminal_before_it_ends(anywhere, closed):
    """The terminal stays until the status is known; else the program would end by SIGHUP."""
    # The reader sees the end of the terminal long before the program ends.
    script = closed + "; sleep 0.2; exit 5"
    for _ in range(5):
        assert anywhere.run([SH, "-c", script], pty=True).returncode == 5


def test_grants_work_between_different_depths(own_router):
    left = own_router.local(via=own_router.local())
    right = own_router.local(via=own_router.local(via=own_router.local()))
    with grants.allow(left, right):
        assert left.call(programs.run_there, right, [SH, "-c", "exit 7"], b"") == (7, b"")


def test_a_child_may_use_its_parent_only_if_granted(own_router):
    child = own_router.local()
    with pytest.raises(mitogen.core.CallError):
        child.call(programs.run_there, own_router.myself(), ["cat"], b"data")
    with grants.allow(child, own_router.myself()):
        assert child.call(programs.run_there, own_router.myself(), ["cat"], b"x") == (0, b"x")


def test_a_unidirectional_tree_ignores_grants(own_router):
    own_router.unidirectional = True
    left, right = own_router.local(), own_router.local()
    with grants.allow(left, right), pytest.raises(mitogen.core.CallError, match="unidirectional"):
        left.call(programs.run_there, right, ["cat"], b"data")


def test_a_program_without_input_costs_one_message(local, monkeypatch):
    local.run(["true"])
    # Messages about the end of that program have been sent.
    local.call(int)
    local.router.broker.defer_sync(int)
    stream = local.router.routes.get(local.context_id)
    sent = []
    send = stream.send
    monkeypatch.setattr(stream, "send", lambda *args, **kw: sent.append(args) or send(*args, **kw))
    assert local.run(["cat"]).stdout == b""
    # The call's message would follow any other one, so nothing else is on its way.
    local.call(int)
    assert len(sent) == 2
