"""mitogen.fakessh: an `ssh` over a context. Tools that use it are in test_fakessh_tools.py."""

import contextlib
import functools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

import mitogen.core
from mitogen import fakessh, minify
from mitogen.fakessh import rendezvous
from tests import hosts, processes
from tests.checkout import ROOT
from tests.integration.conftest import SOON

PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def target(router):
    context = router.local()
    yield context
    context.shutdown(wait=True)


@pytest.fixture(scope="module")
def environ(target):
    with fakessh.session(target) as environ:
        yield environ


@pytest.fixture
def ssh(environ):
    """Return `ssh("x", "id", input=b"...")`, which runs it and returns the CompletedProcess."""

    def ssh(*args, env=None, **options):
        options.setdefault("stdin" if "input" not in options else "timeout", SOON)
        if options.get("stdin") == SOON:
            options["stdin"] = subprocess.DEVNULL
        options.setdefault("timeout", SOON)
        options.setdefault("stdout", PIPE)
        options.setdefault("stderr", PIPE)
        return subprocess.run(["ssh", *args], env=dict(environ, **(env or {})), **options)

    return ssh


@contextlib.contextmanager
def started(*args, **options):
    """Yield a running program; kill it at the end unless it has been reaped."""
    with subprocess.Popen(args, **options) as popen:
        try:
            yield popen
        finally:
            if popen.poll() is None:
                popen.kill()


def gone(pid):
    processes.wait_until(lambda: not processes.alive(pid), SOON, "end of process %d" % pid)


def read_pid(path):
    return int(processes.wait_until(lambda: path.exists() and path.read_text().strip(), SOON))


# ---- status


@pytest.mark.parametrize(
    "command, status",
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("/etc/passwd", 126),
        ("/nonexistent/program", 127),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ],
)
def test_the_status_is_that_of_the_command(command, status, ssh):
    assert ssh("x", command).returncode == status


def test_strict_status_of_a_signal_is_255(target):
    with fakessh.session(target, strict=True) as environ:
        assert subprocess.call(["ssh", "x", "kill -TERM $$"], env=environ) == 255
        assert subprocess.call(["ssh", "x", "exit 143"], env=environ) == 143


def test_200_commands_in_a_row(environ):
    script = "for i in $(seq 200); do ssh x exit 7; [ $? = 7 ] || exit 1; done"
    assert subprocess.call(["sh", "-c", script], env=environ, timeout=100) == 0


def test_50_concurrent_commands(ssh):
    results = []

    def one(number):
        data = b"%d\n" % number * 5000
        results.append((ssh("x", "cat; exit %d" % number, input=data), data, number))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 50
    for done, data, number in results:
        # stderr is not compared: fifty login shells that read their files at once may write to it.
        assert (done.returncode, done.stdout) == (number, data), done.stderr


def test_works_without_an_environment(environ):
    # Some programs clear the environment and close all descriptors.
    script = 'for fd in 3 4 5 6 7 8 9; do eval "exec $fd>&-"; done; exec %s x exit 3'
    assert subprocess.call(["sh", "-c", script % environ["CVS_RSH"]], env={}, timeout=SOON) == 3


# ---- input and output


def test_5_megabytes_make_the_round_trip(ssh):
    data = os.urandom(5 << 20)
    done = ssh("x", "cat", input=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")


@pytest.mark.parametrize("kind", ["file", "socket", "null", "append"])
def test_stdio_may_be_any_kind_of_descriptor(kind, ssh, tmp_path):
    import socket

    data = os.urandom(300000)
    (tmp_path / "in").write_bytes(data)
    out = tmp_path / "out"
    if kind == "file":
        with (tmp_path / "in").open("rb") as stdin, out.open("wb") as stdout:
            assert ssh("x", "cat", stdin=stdin, stdout=stdout).returncode == 0
        assert out.read_bytes() == data
    elif kind == "append":
        out.write_bytes(b"before ")
        with out.open("ab") as stdout:
            assert ssh("x", "echo after", stdout=stdout).returncode == 0
        assert out.read_bytes() == b"before after\n"
    elif kind == "null":
        assert ssh("x", "cat; echo x", stdout=subprocess.DEVNULL).returncode == 0
    else:
        near, far = socket.socketpair()
        with near, far:
            sending = threading.Thread(
                target=lambda: (near.sendall(data), near.shutdown(socket.SHUT_WR))
            )
            sending.start()
            done = ssh("x", "cat", stdin=far)
            sending.join()
        assert done.stdout == data


def test_output_may_be_non_blocking(environ):
    read, write = os.pipe()
    os.set_blocking(write, False)
    with started("ssh", "x", "head -c 3000000 /dev/zero", stdout=write, env=environ) as popen:
        os.close(write)
        with open(read, "rb") as pipe:
            assert pipe.read() == bytes(3000000)
        assert popen.wait(SOON) == 0


def test_stderr_is_separate(ssh):
    done = ssh("x", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_end_of_input_leaves_output_open(environ):
    with started("ssh", "x", "cat; echo done", stdin=PIPE, stdout=PIPE, env=environ) as popen:
        popen.stdin.write(b"one\n")
        popen.stdin.flush()
        assert popen.stdout.readline() == b"one\n"
        popen.stdin.close()
        assert popen.stdout.read() == b"done\n"
        assert popen.wait(SOON) == 0


def test_output_may_end_before_the_program(environ, tmp_path):
    command = "echo $$ > %s; exec >&- 2>&-; exec sleep 1000" % (tmp_path / "pid")
    with started("ssh", "x", command, stdin=PIPE, stdout=PIPE, env=environ) as popen:
        assert popen.stdout.read() == b""
        assert popen.poll() is None
        popen.terminate()
        assert popen.wait(SOON) == 255
    gone(read_pid(tmp_path / "pid"))


def test_a_closed_output_is_a_sigpipe(environ, tmp_path):
    command = "echo $$ > %s; exec yes" % (tmp_path / "pid")
    script = "ssh x '%s' | head -n 1; exit ${PIPESTATUS[0]}" % command
    done = subprocess.run(["bash", "-c", script], env=environ, stdout=PIPE, timeout=SOON)
    assert (done.stdout, done.returncode) == (b"y\n", 128 + signal.SIGPIPE)
    gone(read_pid(tmp_path / "pid"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_stdio_may_be_closed(closed, environ, tmp_path):
    script = "ssh x 'cat; echo out; echo err >&2; exit 5' %s" % closed
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, timeout=SOON)
    assert done.returncode == 5
    assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else b"out\n")
    assert done.stderr == (b"" if "2>&-" in closed else b"err\n")


def test_option_n_reads_no_input(ssh):
    assert ssh("-n", "x", "cat; echo done", input=b"not read").stdout == b"done\n"


def rss_of(pid):
    """Return the resident memory of a process, in MiB."""
    pages = int(pathlib.Path("/proc/%d/statm" % pid).read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_slow_reader_costs_no_memory(target, environ):
    pids = [os.getpid(), target.call(os.getpid)]
    with started("ssh", "x", "cat /dev/zero", stdout=PIPE, env=environ) as popen:
        assert popen.stdout.read(1 << 20) == bytes(1 << 20)
        before = [rss_of(pid) for pid in pids]
        # Calls worth two windows: had the transfer continued, there would be far more by now.
        for _ in range(200):
            target.call(time.monotonic)
        assert all(rss_of(pid) - was < 8 for pid, was in zip(pids, before))
        assert popen.stdout.read(10 << 20) == bytes(10 << 20)
        popen.kill()


# ---- kinds of invocations


def fastest(command, environ):
    """Return the shortest run time of a program, in seconds."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        subprocess.run(command, env=environ, capture_output=True, timeout=SOON)
        times.append(time.perf_counter() - began)
    return min(times)


def test_startup_is_fast(environ):
    """It takes 20 ms, of which a bare Python takes 8 on the reference machine."""
    bare = fastest([sys.executable, "-I", "-S", "-c", "pass"], environ)
    assert fastest(["ssh", "-V"], environ) < bare + 0.012


def test_version(ssh):
    done = ssh("-V")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr.startswith(b"OpenSSH_9.9p2 mitogen-fakessh")


def test_config(ssh):
    done = ssh("-G", "-p", "99", "u@x")
    assert done.stdout == b"host x\nuser u\nhostname x\nport 99\n"
    assert done.returncode == 0


@pytest.mark.parametrize(
    "args, status, text",
    [
        (["-O", "check", "x"], 0, "Master running (pid=%d)\n" % os.getpid()),
        (["-O", "exit", "x"], 0, "Exit request sent.\n"),
        (["-O", "stop", "x"], 0, "Stop listening request sent.\n"),
        (["-O", "forward", "x"], 255, "mux_client_forward: not supported (mitogen.fakessh)\n"),
        ([], 255, "usage: ssh"),
        (["-z"], 255, "unknown option -- z\nusage: ssh"),
        (["-o", "ControlPersist", "x"], 255, "no argument after keyword"),
        (["-s", "x", "what"], 255, "subsystem request failed on channel 0\n"),
        (["-o", "ExitOnForwardFailure=yes", "-L", "1:x:2", "x", "id"], 255, "port forwarding"),
        (["-D", "1", "x", "exit 3"], 3, "Warning: dynamic forwarding 1"),
        (["-q", "-D", "1", "x", "exit 3"], 3, ""),
        (["-q", "-s", "x", "what"], 255, ""),
    ],
)
def test_invocations_without_a_connection(args, status, text, ssh):
    done = ssh(*args)
    error = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b"")
    assert text in error if text else not error


def test_no_command_runs_the_login_shell(ssh):
    done = ssh("x", input=b"echo $0 in $PWD\nexit 9\n")
    assert done.returncode == 9
    assert done.stdout.endswith(b" in " + os.fsencode(os.path.expanduser("~")) + b"\n")
    assert b"Pseudo-terminal will not be allocated" in done.stderr


def test_words_are_joined_and_never_quoted_again(ssh):
    assert ssh("x", "echo", "a  b", "'c  d'", "$((1+1))").stdout == b"a b c  d 2\n"


def test_the_remote_environment_has_the_requested_variables(ssh):
    script = "echo $A,$LC_Q,$B,$SECRET; echo $SSH_CONNECTION; echo $SSH_CLIENT; echo $SSH_TTY"
    env = {"A": "1", "LC_Q": "ä", "SECRET": "no"}
    done = ssh("-o", "SendEnv=A LC_*", "-o", "SetEnv=B=b", "-p", "99", "x", script, env=env)
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "1,ä,b,"
    assert [len(each.split()) for each in lines[1:]] == [4, 3, 0]
    assert lines[1].split()[3] == "99"


def test_option_w_forwards_a_connection(ssh):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]

        def serve():
            sock = listener.accept()[0]
            with sock, sock.makefile("rb") as stream:
                sock.sendall(b"you sent " + stream.read())

        serving = threading.Thread(target=serve)
        serving.start()
        done = ssh("-W", "127.0.0.1:%d" % port, "x", input=b"hello")
        serving.join()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"you sent hello", b"")


def test_a_refused_connection_is_an_error(ssh):
    with hosts.closed_port() as port:
        done = ssh("-W", "127.0.0.1:%d" % port, "x")
    assert done.returncode == 255
    assert b"open failed" in done.stderr and b"stdio forwarding failed" in done.stderr


def test_ssh_may_run_no_command(environ):
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 255)):
        with started("ssh", "-N", "x", stdout=PIPE, env=environ) as popen:
            # It closes its standard output once it runs in the background.
            assert popen.stdout.read() == b""
            popen.send_signal(number)
            assert popen.wait(SOON) == status


def test_ssh_goes_to_the_background(environ, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(str(fifo))
    command = "echo early; cat %s" % fifo
    with started("ssh", "-f", "x", command, stdout=PIPE, env=environ) as popen:
        assert popen.wait(SOON) == 0
        assert popen.stdout.readline() == b"early\n"
        fifo.write_bytes(b"late\n")
        assert popen.stdout.read() == b"late\n"


def test_unknown_hosts_are_refused(router, target):
    other = router.local()
    pids = {"one": target.call(os.getpid), "two": other.call(os.getpid)}
    try:
        with fakessh.session(None, hosts={"one": target, "two": other, "::1": other}) as environ:

            def parent(host):
                command = ["ssh", host, "ps -o ppid= -p $$"]
                return subprocess.run(command, env=environ, capture_output=True, timeout=SOON)

            assert int(parent("one").stdout) == pids["one"]
            assert int(parent("u@two").stdout) == pids["two"]
            assert int(parent("ssh://TWO:22").stdout) == pids["two"]
            assert int(parent("[::1]").stdout) == pids["two"]
            done = parent("three")
            assert done.returncode == 255
            assert b"three: unknown host; known hosts: ::1, one, two\n" in done.stderr
    finally:
        other.shutdown(wait=True)


# ---- terminals


def at_terminal(environ, script, answers):
    """Run a shell script on a terminal of its own; return its status and the terminal's output."""
    command = ["env"] + ["%s=%s" % pair for pair in environ.items()]
    return hosts.converse([*command, "sh", "-c", script], answers)


def test_option_t_allocates_a_terminal(environ):
    script = "ssh -t x 'tty; echo tty=$SSH_TTY $TERM; read a; echo got $a >&2; exit 6'"
    status, text = at_terminal(dict(environ, TERM="vt220"), script, [("vt220", "word")])
    assert status == 6
    name = text.split()[0]
    assert name.startswith("/dev/pts/") and "tty=%s vt220" % name in text
    assert "got word" in text and "Connection to x closed." in text


def test_option_tt_forces_a_terminal(ssh):
    done = ssh("-tt", "x", "tty; exit 4", env={"TERM": "vt100"})
    assert done.returncode == 4
    assert done.stdout.startswith(b"/dev/pts/")
    assert done.stderr == b"Connection to x closed.\n"


def test_input_from_a_terminal_without_a_pty(environ):
    # There is no pty: keys arrive as lines, and ^D ends the input.
    script = "ssh x 'echo ready; wc -c'"
    status, text = at_terminal(environ, script, [("ready", "1234"), ("1234", "\x04")])
    assert (status, text.split()[-1]) == (0, "5")


def test_option_n_leaves_typed_keys_alone(environ):
    script = "ssh -n x 'echo ready; read a; echo far $a'; read a; echo got $a"
    status, text = at_terminal(environ, script, [("ready", "word")])
    assert (status, "got word" in text) == (0, True)


def test_a_terminal_is_raw_meanwhile_and_restored_afterwards(environ):
    script = "stty; ssh -t x 'stty raw -echo; echo ready; head -c 3; stty sane; exit 2'; stty"
    # A control character would be a signal here, were it not for the remote terminal.
    status, text = at_terminal(environ, script, [("ready", "\x03\x1a")])
    assert status == 0
    before, _, after = text.partition("ready")
    assert "\x03\x1a\n" in after
    flags = [line for line in before.splitlines() if line.strip()]
    assert flags and after.replace("\r", "").rstrip().endswith("\n".join(flags[-1:]))
    assert "Connection to x closed." in after


def test_an_escape_ends_the_connection(environ, tmp_path):
    command = "echo $$ > %s; echo ready; read a; read b; exec sleep 1000" % (tmp_path / "pid")
    script = "ssh -t x '%s'; echo status $?; stty -a" % command
    status, text = at_terminal(environ, script, [("ready", ""), ("\n", "~.")])
    assert status == 0
    assert "status 255" in text and " icanon" in text and " echo " in text
    gone(read_pid(tmp_path / "pid"))


def test_a_signal_restores_the_terminal(environ, tmp_path):
    pid = tmp_path / "pid"
    script = (
        "sh -c 'echo $$ > %s; exec ssh -t x \"echo ready; read a; kill -TERM \\$(cat %s); "
        "sleep 1000\"'; echo status $?; stty -a"
    ) % (pid, pid)
    status, text = at_terminal(environ, script, [("ready", "go")])
    assert status == 0
    assert "status 255" in text and " icanon" in text and " echo " in text


# ---- ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_is_status_255(number, environ, tmp_path):
    command = "echo $$ > %s; exec cat" % (tmp_path / "pid")
    with started("ssh", "x", command, stdin=PIPE, env=environ) as popen:
        pid = read_pid(tmp_path / "pid")
        popen.send_signal(number)
        assert popen.wait(SOON) == 255
        gone(pid)


def test_default_signals_end_it(environ, tmp_path):
    command = "echo $$ > %s; exec cat" % (tmp_path / "pid")
    with started("ssh", "x", command, stdin=PIPE, env=environ) as popen:
        pid = read_pid(tmp_path / "pid")
        popen.send_signal(signal.SIGUSR1)
        assert popen.wait(SOON) == -signal.SIGUSR1
        gone(pid)


def test_ignored_signals_stay_ignored(environ, tmp_path):
    script = "trap '' HUP INT; exec ssh x 'echo $$ > %s; exec cat'" % (tmp_path / "pid")
    with started("sh", "-c", script, stdin=PIPE, stdout=PIPE, env=environ) as popen:
        read_pid(tmp_path / "pid")
        for number in (signal.SIGHUP, signal.SIGINT):
            popen.send_signal(number)
        popen.stdin.write(b"still there\n")
        popen.stdin.close()
        assert popen.stdout.read() == b"still there\n"
        assert popen.wait(SOON) == 0


def test_a_killed_stand_in_ends_the_command(environ, tmp_path):
    command = "echo $$ > %s; exec cat" % (tmp_path / "pid")
    with started("ssh", "x", command, stdin=PIPE, env=environ) as popen:
        pid = read_pid(tmp_path / "pid")
        popen.kill()
        gone(pid)


def test_a_killed_context_ends_the_transfer(own_router):
    context = own_router.local()
    pid = context.call(os.getpid)
    with fakessh.session(context) as environ:
        with started("ssh", "x", "yes", stdout=PIPE, stderr=PIPE, env=environ) as popen:
            assert popen.stdout.read(1 << 20)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            output, errors = popen.communicate(timeout=SOON)
            assert popen.returncode == 255
            assert time.monotonic() - began < 5
            assert b"connection to host x lost" in errors
        assert subprocess.call(["ssh", "x", "true"], env=environ, stderr=PIPE) == 255


def test_the_end_of_a_session_ends_its_commands(target, tmp_path):
    command = "echo $$ > %s; exec cat" % (tmp_path / "pid")
    with contextlib.ExitStack() as stack:
        with fakessh.session(target) as environ:
            ssh = started("ssh", "x", command, stdin=PIPE, stderr=PIPE, env=environ)
            popen = stack.enter_context(ssh)
            pid = read_pid(tmp_path / "pid")
        assert popen.wait(SOON) == 255
        assert b"has ended" in popen.stderr.read()
        gone(pid)
        again = subprocess.run(["sh", "-c", environ["CVS_RSH"]], capture_output=True)
        assert again.returncode == 127


def test_broker_shutdown_ends_the_commands(own_router, tmp_path):
    context = own_router.local()
    with fakessh.session(context) as environ:
        with started("ssh", "x", "cat", stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environ) as popen:
            popen.stdin.write(b"x\n")
            popen.stdin.flush()
            assert popen.stdout.readline() == b"x\n"
            own_router.broker.shutdown()
            assert popen.wait(SOON) == 255
        assert not os.path.exists(environ["PATH"].split(":")[0])
    with pytest.raises(mitogen.core.Error):
        with fakessh.session(context):
            pass


PROGRAM = """
import os, signal, subprocess, sys
import mitogen.master
from mitogen import fakessh

with mitogen.master.Router() as router:
    with fakessh.session(router.local()) as environ:
        popen = subprocess.Popen(["ssh", "x", "cat"], env=environ, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=2)
        popen.stdin.write(b"x\\n")
        popen.stdin.flush()
        popen.stdout.readline()
        print(environ["PATH"].split(":")[0], popen.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_master_ends_the_commands(target, tmp_path):
    root = str(ROOT)
    env = dict(os.environ, PYTHONPATH=root)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, timeout=SOON
    )
    assert done.returncode == -signal.SIGKILL
    directory, pid = done.stdout.decode().split()
    gone(int(pid))
    assert b"the process that provides this ssh has ended" in done.stderr
    assert os.path.isdir(directory)
    # The next session removes the leftovers.
    with fakessh.session(target):
        assert not os.path.exists(os.path.dirname(directory))


def test_nested_remote_commands_are_bounded(ssh, environ, tmp_path):
    loop = tmp_path / "loop"
    loop.write_text(
        "#!/bin/sh\necho x >> %s.count\nexec %s x %s\n" % (loop, environ["CVS_RSH"], loop)
    )
    loop.chmod(0o700)
    done = ssh("x", str(loop))
    assert done.returncode == 255
    assert b"8 nested remote commands" in done.stderr
    assert (tmp_path / "loop.count").read_text().count("x") == 8


# ---- run()


def test_run_returns_the_status(target, tmp_path):
    out = tmp_path / "out"
    with out.open("wb") as stdout:
        args = ["sh", "-c", "echo $WORD in $PWD; ssh x exit 3"]
        status = fakessh.run(
            target, None, args, env={"WORD": "x"}, cwd=str(tmp_path), stdout=stdout
        )
    assert status == 3
    assert out.read_text() == "x in %s\n" % tmp_path


def test_run_takes_the_arguments_of_old_programs(router, target):
    assert fakessh.run(target, router, ["ssh", "x", "exit 4"]) == 4
    assert fakessh.run(target, router, args=["ssh", "x", "exit 5"]) == 5
    assert fakessh.run(target, ["ssh", "x", "exit 6"]) == 6
    assert fakessh.run(dest=target, router=router, args=("sh", "-c", "kill -9 $$")) == -9


@pytest.mark.parametrize("args", [None, [], "", "ssh x id", b"ssh x"])
def test_run_without_a_program_is_an_error(args, target):
    with pytest.raises(TypeError):
        fakessh.run(target, None, args)


@pytest.mark.parametrize("dest", [None, "x", 3])
def test_run_without_a_destination_is_an_error(dest):
    with pytest.raises(TypeError):
        fakessh.run(dest, None, ["true"])
    with pytest.raises(TypeError):
        fakessh.run(None, None, ["true"], hosts={"x": dest})
    with pytest.raises(TypeError):
        fakessh.run(None, None, ["true"], hosts={})


def test_run_of_a_missing_program_is_an_error(target):
    with pytest.raises(FileNotFoundError):
        fakessh.run(target, None, ["/nonexistent/program"])
    with pytest.raises(ValueError):
        fakessh.run(target, None, ["true"], stdout=PIPE)


def test_a_deadline_ends_the_program(target, tmp_path):
    script = "ssh x 'echo $$ > %s; exec cat' & echo $! > %s; sleep 1000"
    args = ["sh", "-c", script % (tmp_path / "far", tmp_path / "near")]
    with open(os.devnull) as null:
        with pytest.raises(mitogen.core.TimeoutError) as caught:
            fakessh.run(target, None, args, deadline=1, stdin=null)
    assert "did not finish within 1 s" in str(caught.value)
    gone(read_pid(tmp_path / "near"))
    gone(read_pid(tmp_path / "far"))


def test_a_deadline_kills_a_stubborn_program(target, tmp_path, monkeypatch):
    monkeypatch.setattr("mitogen.fakessh.runner.GRACE", 0.3)
    script = "trap '' TERM; echo $$ > %s; while :; do sleep 0.1; done" % (tmp_path / "pid")
    with pytest.raises(mitogen.core.TimeoutError):
        fakessh.run(target, None, ["sh", "-c", script], deadline=0.5)
    gone(read_pid(tmp_path / "pid"))


def test_run_works_on_several_threads(target, tmp_path):
    found = {}

    def one(number):
        found[number] = fakessh.run(target, None, ["ssh", "x", "exit %d" % number])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: number for number in range(8)}


def test_an_interrupt_ends_the_program(target, tmp_path):
    """^C raises an exception in run() and leaves nothing of the program."""
    pid = tmp_path / "pid"

    def interrupt():
        read_pid(pid)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    args = ["ssh", "x", "echo $$ > %s; exec sleep 1000" % pid]
    with pytest.raises(KeyboardInterrupt):
        fakessh.run(target, None, args)
    interrupting.join()
    gone(read_pid(pid))


@pytest.mark.parametrize("version", sorted({(3, 6)} & set(hosts.find_pythons())))
def test_run_works_in_a_child_with_an_old_python(version, own_router, pythons):
    near = own_router.local(python_path=pythons[version])
    far = own_router.local(via=near, python_path=pythons[version])
    assert near.call(fakessh.run, far, None, ["sh", "-c", "echo x | ssh x 'cat; exit 8'"]) == 8


def test_run_works_in_a_child(own_router, tmp_path):
    """run() works in a context: its program's ssh leads to a child of that context."""
    near = own_router.local()
    far = own_router.local(via=near)
    out = tmp_path / "out"
    script = "ssh x 'ps -o ppid= -p $$' > %s; exit 8" % out
    assert near.call(fakessh.run, far, None, ["sh", "-c", script]) == 8
    assert int(out.read_text()) == far.call(os.getpid)
    assert near.call(fakessh.run, far, ["ssh", "x", "exit 9"]) == 9


def test_run_ends_in_a_child_that_loses_its_parent(own_router, tmp_path):
    near = own_router.local()
    far = own_router.local(via=near)
    pid = near.call(os.getpid)
    script = "echo $$ > %s; ssh x 'echo $$ > %s; cat'" % (tmp_path / "near", tmp_path / "far")
    near.call_async(fakessh.run, far, None, ["sh", "-c", script])
    pids = [read_pid(tmp_path / name) for name in ("near", "far")]
    own_router.disconnect(near)
    for each in [pid, *pids]:
        gone(each)


def test_run_ends_in_a_child_that_is_killed(own_router, tmp_path):
    near = own_router.local()
    far = own_router.local(via=near)
    pid = near.call(os.getpid)
    script = "trap '' TERM HUP; echo $$ > %s; while :; do sleep 0.2; done" % (tmp_path / "pid")
    near.call_async(fakessh.run, far, None, ["sh", "-c", script])
    tool = read_pid(tmp_path / "pid")
    os.kill(pid, signal.SIGKILL)
    gone(tool)


# ---- places


def long_name(directory):
    path = os.path.join(directory, *["d" * 60] * 4)
    os.makedirs(path)
    return path


def with_colon(directory):
    path = os.path.join(directory, "a:b")
    os.mkdir(path)
    return path


def with_spaces(directory):
    path = os.path.join(directory, "a 'b' \"c\" $d")
    os.mkdir(path)
    return path


def check_session(target):
    """Return the directory of a session in which every kind of use works."""
    with fakessh.session(target) as environ:
        path = environ["PATH"].split(":")[0]
        for command in (
            ["ssh", "x", "exit 3"],
            ["sh", "-c", environ["GIT_SSH_COMMAND"] + " x exit 3"],
            ["sh", "-c", environ["RSYNC_RSH"] + " x exit 3"],
            [environ["CVS_RSH"], "x", "exit 3"],
        ):
            assert subprocess.call(command, env=environ, timeout=SOON) == 3
        script = "echo $(ssh x 'echo out; echo err >&2' 2>&1)"
        assert subprocess.check_output(["sh", "-c", script], env=environ) == b"out err\n"
        mode = os.stat(os.path.dirname(path)).st_mode
        assert mode & 0o777 == 0o700
    assert not os.path.exists(path)
    return os.path.dirname(os.path.dirname(path))


def test_the_directory_is_in_tmpdir(target, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert check_session(target) == str(tmp_path)
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("make", [long_name, with_spaces])
def test_directories_may_have_odd_names(make, target, tmp_path, monkeypatch):
    path = make(str(tmp_path))
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [path])
    assert check_session(target) == path


@pytest.mark.parametrize("make", [with_colon, with_spaces])
def test_a_better_directory_is_preferred(make, target, tmp_path, monkeypatch):
    odd = make(str(tmp_path))
    good = str(tmp_path / "good")
    os.mkdir(good)
    monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [odd, good])
    assert check_session(target) == good
    assert os.listdir(odd) == []


def test_unusable_directories_are_an_error(target, tmp_path, monkeypatch):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    colon = with_colon(str(tmp_path))
    monkeypatch.setattr(
        rendezvous, "parent_candidates", lambda: [colon, str(open_to_all), "/nonexistent", "/proc"]
    )
    with pytest.raises(mitogen.core.Error) as caught:
        check_session(target)
    assert "set TMPDIR" in str(caught.value)
    assert "other accounts may rename files there" in str(caught.value)
    assert os.listdir(str(open_to_all)) == os.listdir(colon) == []


@pytest.mark.root
def test_a_directory_mounted_noexec_is_not_used(target, tmp_path, monkeypatch):
    place = tmp_path / "noexec"
    place.mkdir()
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "noexec", "none", str(place)], stderr=PIPE):
        pytest.skip("needs the right to mount")
    try:
        monkeypatch.setattr(rendezvous, "parent_candidates", lambda: [str(place), str(tmp_path)])
        assert check_session(target) == str(tmp_path)
        assert os.listdir(str(place)) == []
    finally:
        subprocess.check_call(["umount", str(place)])


def test_the_interpreters_path_may_have_spaces(target, tmp_path, monkeypatch):
    path = tmp_path / "py 'th' on" / "python 3"
    path.parent.mkdir()
    path.symlink_to(os.path.realpath(sys.executable))
    monkeypatch.setattr(rendezvous, "get_sys_executable", lambda: str(path))
    check_session(target)


@pytest.mark.parametrize("version", sorted(v for v in hosts.find_pythons() if v >= (3, 6)))
def test_every_interpreter_can_run_a_session(version, target, pythons, monkeypatch):
    """A child has the sources as they are sent: an old interpreter can't read the originals."""
    source_of = rendezvous.source_of

    def as_sent(module):
        return minify.minimize_source(source_of(module), strip_annotations=True)

    monkeypatch.setattr(rendezvous, "source_of", as_sent)
    monkeypatch.setattr(rendezvous, "get_sys_executable", functools.partial(str, pythons[version]))
    check_session(target)


def test_connections_that_are_not_stand_ins_are_refused(target):
    import socket

    with fakessh.session(target) as environ:
        path = os.path.join(os.path.dirname(environ["PATH"].split(":")[0]), "socket")
        for data in (b"", b"R", b"R\0\0\0\1x", b"X" * 100, b"R\xff\xff\xff\xff", b"R\0\0\0\0"):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                assert sock.recv(1 << 16)[:1] in (b"", b"X")
        assert subprocess.call(["ssh", "x", "exit 3"], env=environ) == 3


# ---- the command line


def program(*args, **options):
    root = str(ROOT)
    options.setdefault("env", dict(os.environ, PYTHONPATH=root))
    command = [sys.executable, "-m", "mitogen.fakessh", *args]
    return subprocess.run(command, capture_output=True, timeout=SOON, **options)


@pytest.mark.parametrize(
    "args, status, out, err",
    [
        (["local", "ssh", "x", "echo hi; exit 5"], 5, "hi\n", ""),
        (["local/local", "--", "ssh", "x", "exit 5"], 5, "", ""),
        (["--strict", "local", "ssh", "x", "kill -9 $$"], 255, "", ""),
        (["local", "ssh", "x", "kill -9 $$"], 137, "", ""),
        (["local", "sh", "-c", "kill -9 $$"], 137, "", ""),
        (["--host", "a=local", "--host=b=local", "ssh", "b", "exit 6"], 6, "", ""),
        (["--host", "a=local", "ssh", "c"], 255, "", "c: unknown host; known hosts: a"),
        (["--deadline", "0.5", "local", "sleep", "1000"], 255, "", "did not finish within 0.5 s"),
        (["what", "true"], 255, "", "'what' is not a connection method"),
        (["local", "/nonexistent/program"], 255, "", "No such file"),
        (["local"], 2, "", "a command is missing"),
        ([], 2, "", "a command is missing"),
        (["--what"], 2, "", "usage"),
    ],
)
def test_the_command_line_runs_a_tool(args, status, out, err):
    done = program(*args)
    assert (done.returncode, done.stdout.decode()) == (status, out), done.stderr
    assert err in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_an_interrupt_at_a_terminal_ends_program_and_tool(tmp_path):
    """The program is in the terminal's foreground together with its tool: ^C ends both."""
    root = str(ROOT)
    environ = dict(os.environ, PYTHONPATH=root, TMPDIR=str(tmp_path))
    script = "%s -m mitogen.fakessh local ssh x 'echo $$ > %s; echo ready; cat'; echo status $?"
    script = "trap : INT; " + script % (sys.executable, tmp_path / "pid")
    status, text = at_terminal(environ, script, [("ready", "word"), ("word\r\nword", "\x03")])
    assert status == 0
    assert "status 130" in text and "Traceback" not in text
    gone(read_pid(tmp_path / "pid"))
    assert os.listdir(str(tmp_path)) == ["pid"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_terminated_program_ends_its_tool(number, tmp_path):
    root = str(ROOT)
    env = dict(os.environ, PYTHONPATH=root, TMPDIR=str(tmp_path))
    pid = tmp_path / "pid"
    args = [sys.executable, "-m", "mitogen.fakessh", "local", "ssh", "x"]
    with started(*args, "echo $$ > %s; exec cat" % pid, stdin=PIPE, stderr=PIPE, env=env) as popen:
        far = read_pid(pid)
        popen.send_signal(number)
        assert popen.wait(SOON) == 128 + number
        assert b"Traceback" not in popen.stderr.read()
    gone(far)
    assert os.listdir(str(tmp_path)) == ["pid"]
