"""A person's terminal: shell() and `mitogen shell` on real ptys, in a real tmux.

A Person is a session of its own on a pty. A small sh leads it, like a login shell, so that the
terminal outlives the program and can be inspected afterwards. Nothing sleeps: tests wait, with a
deadline, for text on the screen.
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from mitogen import cli as cli_module, core, process, terminal
from mitogen.terminal import interactive, raw_tty
from tests import hosts, processes
from tests.checkout import ROOT

SOON = 20.0
#: A program that prints nothing but its input.
BASH = ["bash", "--norc", "--noprofile", "-i"]
PROMPT = "far> "

#: The program that a Person runs: `context` is two hops away.
DRIVER = """
import os, sys, threading, signal, logging, atexit
import mitogen.core, mitogen.master, mitogen.terminal
logging.basicConfig(format="%(message)s")
BASH, PROMPT = {bash!r}, {prompt!r}
with mitogen.master.Router() as router:
    via = router.local(name="near")
    context = router.local(via=via, name="far")
    def shell(argv=BASH, **kwargs):
        kwargs.setdefault("env", {{"PS1": PROMPT}})
        kwargs.setdefault("tty", True)
        return context.shell(argv, **kwargs)
{body}
"""


def driver(body: str) -> list[str]:
    """Return the command that runs `body`, which can use `shell`, `context`, `via` and `router`."""
    text = DRIVER.format(
        bash=BASH, prompt=PROMPT, body="".join(f"    {line}\n" for line in body.split("\n"))
    )
    return [sys.executable, "-c", text]


def cli(*args: str) -> list[str]:
    return [sys.executable, "-m", "mitogen", "shell", *args]


def environ() -> dict[str, str]:
    env = dict(os.environ, TERM="xterm", PYTHONPATH=str(ROOT), PS1="near> ", HISTFILE="")
    drop = re.compile("COLORTERM|LANG|LC_.*")
    return {name: value for name, value in env.items() if not drop.fullmatch(name)}


@pytest.fixture(scope="module", autouse=True)
def inputrc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Configure bash's line editor to print typed text and no escape sequences."""
    path = tmp_path_factory.mktemp("terminal") / "inputrc"
    path.write_text("set enable-bracketed-paste off\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INPUTRC", str(path))
        yield


class Person:
    """A person at a terminal, who runs one command in it."""

    #: Runs the command, prints its status, and stays until the terminal is closed.
    LEADER = 'trap : INT; "$@"; echo "[status $?]"; exec cat >/dev/null'

    def __init__(self, argv: list[str], leader: str = LEADER, size: Any = (80, 24)):
        self.master, slave = os.openpty()
        self.seen = b""
        self.at = 0
        self.set_size(*size)
        self.before = self.attrs()
        command = ["setsid", "-c", "-w", "sh", "-c", leader, "sh", *argv]
        self.leader = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environ()
        )
        os.close(slave)

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        if self.leader.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.leader.wait(SOON)
        if self.leader.poll() is None:
            self.leader.kill()
            self.leader.wait()

    def hang_up(self) -> None:
        if self.master >= 0:
            os.close(self.master)
        self.master = -1

    def attrs(self) -> Any:
        """Return the attributes of the terminal: on Linux, those of its other end."""
        return termios.tcgetattr(self.master)

    @property
    def is_raw(self) -> bool:
        return not self.attrs()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def set_size(self, columns: int, lines: int) -> None:
        packed = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, packed)

    def type(self, text: "str | bytes") -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def read(self, timeout: float = SOON) -> bytes:
        ready, _, _ = select.select([self.master], [], [], max(0.0, timeout))
        assert ready, "nothing more than:\n" + self.seen[self.at :].decode(errors="replace")
        try:
            data = os.read(self.master, 65536)
        except OSError:
            data = b""
        assert data, "the end after:\n" + self.seen[self.at :].decode(errors="replace")
        self.seen += data
        return data

    def wait_for(self, pattern: str, timeout: float = SOON) -> Any:
        """Read the screen until it shows `pattern` after the previous match."""
        deadline = time.monotonic() + timeout
        while True:
            found = re.compile(pattern.encode()).search(self.seen, self.at)
            if found:
                self.at = found.end()
                return found
            self.read(deadline - time.monotonic())

    def wait_until_raw(self) -> None:
        processes.wait_until(lambda: self.is_raw, SOON, "a raw terminal")

    def status(self) -> int:
        """Wait for the command's end; return its exit status."""
        return int(self.wait_for(r"\[status (\d+)\]")[1])

    def program(self) -> int:
        """Return the pid of the command."""
        (found,) = [
            each.pid
            for each in processes.process_tree(self.leader.pid)
            if each.comm.startswith("python") and sys.executable in each.cmdline
        ]
        return found


def far_pids() -> list[int]:
    """Return the pids of the contexts started by this run, the deepest last."""
    found = processes.marked_processes(str(os.getpid()))
    return [each.pid for each in found if each.comm.startswith("mitogen:") and each.state != "Z"]


def assert_raw(attrs: Any, before: Any) -> None:
    assert attrs == [*raw_tty.raw_attrs(before)[:6], attrs[6]]
    assert attrs[6][termios.VMIN] in (1, b"\1") and attrs[6][termios.VTIME] in (0, b"\0")


# ---- terminal attributes before, during and after


def end_by_exit(person: Person) -> int:
    person.type("exit 7\r")
    return 7


def end_by_escape(person: Person) -> int:
    person.type("\r~.")
    return 255


def end_by_remote_signal(person: Person) -> int:
    person.type("kill -9 $$\r")
    return 128 + 9


def end_by_context_loss(person: Person) -> int:
    (far,) = [
        each.pid
        for each in processes.process_tree(person.program())
        if each.comm.startswith("mitogen:") and each.ppid != person.program()
    ]
    os.kill(far, signal.SIGKILL)
    return 255


def end_by_signal(number: int) -> Any:
    def end(person: Person) -> int:
        os.kill(person.program(), number)
        return 128 + number

    return end


def end_by_interrupt(person: Person) -> int:
    os.kill(person.program(), signal.SIGINT)
    return 130


WAYS = {
    "exit": ("sys.exit(shell())", end_by_exit),
    "escape": ("sys.exit(shell())", end_by_escape),
    "remote-signal": ("sys.exit(shell())", end_by_remote_signal),
    "context-loss": ("sys.exit(shell())", end_by_context_loss),
    "term": ("shell()", end_by_signal(signal.SIGTERM)),
    "hup": ("shell()", end_by_signal(signal.SIGHUP)),
    "quit": ("shell()", end_by_signal(signal.SIGQUIT)),
    "interrupt": ("try: shell()\nexcept KeyboardInterrupt: sys.exit(130)", end_by_interrupt),
    "exception": (
        "def fail(*_): raise ArithmeticError\n"
        "signal.signal(signal.SIGUSR1, fail)\n"
        "try: shell()\n"
        "except ArithmeticError: sys.exit(128 + signal.SIGUSR1)",
        end_by_signal(signal.SIGUSR1),
    ),
    "handler-that-exits": (
        "def fail(*_): sys.exit(128 + signal.SIGTERM)\n"
        "signal.signal(signal.SIGTERM, fail)\n"
        "shell()",
        end_by_signal(signal.SIGTERM),
    ),
    "broker-death": (
        "def end(*_): router.broker.shutdown()\n"
        "signal.signal(signal.SIGUSR1, end)\n"
        # The programs there got SIGHUP; their status may still arrive.
        "sys.exit(138 if shell() in (129, 255) else 1)",
        end_by_signal(signal.SIGUSR1),
    ),
    "atexit": (
        "def end(*_): sys.exit(128 + signal.SIGUSR1)\n"
        "signal.signal(signal.SIGUSR1, end)\n"
        "threading.Thread(target=shell, daemon=True).start()\n"
        "while True: signal.pause()",
        end_by_signal(signal.SIGUSR1),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_terminal_is_restored(way):
    body, end = WAYS[way]
    with Person(driver(body)) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        assert_raw(person.attrs(), person.before)
        status = end(person)
        assert person.status() == status
        assert person.attrs() == person.before


def test_nothing_is_left_when_the_terminal_hangs_up():
    """Its processes get SIGHUP, and so do the programs at the far side."""
    with Person(driver("shell()")) as person:
        person.wait_for(PROMPT)
        person.type("echo pid=$$; exec sleep 1000\r")
        far = int(person.wait_for(r"\npid=(\d+)")[1])
        program = person.program()
        person.hang_up()
        for pid in (program, far):
            processes.wait_until(lambda pid=pid: not processes.alive(pid), what="end of it all")


def test_type_ahead_is_kept():
    """The text is typed before a program reads it."""
    with Person(driver("sys.exit(shell(['sh', '-c', 'read line; echo \"<$line>\"']))")) as person:
        person.type("typed ahead\n")
        person.wait_for("<typed ahead>\r\n")
        assert person.status() == 0


# ---- output and keys


def test_the_command_line_runs_a_login_shell():
    with Person(cli("-q", "local", "local")) as person:
        person.wait_until_raw()
        person.type("echo $0; exit 3\r")
        person.wait_for(r"\r\n-\w+\r\n")
        assert person.status() == 3
        assert b"closed" not in person.seen


def test_the_end_prints_a_message():
    with Person(driver("sys.exit(shell())")) as person:
        person.wait_for(PROMPT)
        person.type("exit 7\r")
        person.wait_for("Connection to near.far closed.\r\n")
        assert person.status() == 7


def test_a_lost_context_prints_a_message():
    with Person(driver("sys.exit(shell())")) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        end_by_context_loss(person)
        person.wait_for("Connection to near.far lost: .+\r\n")
        assert person.status() == 255
        assert b"closed." not in person.seen


def test_the_terminal_has_its_type_size_and_environment():
    """It is the far side's environment plus variables of the terminal and the person."""
    here = {"COLORTERM": "truecolor", "LANG": "C.UTF-8", "LC_TIME": "C"}
    body = f"""
os.environ.update({here!r}, OTHER="z", TERM="vt100")
sys.exit(shell(["sh", "-c", "stty size; env"], env={{"MORE": "x", "LC_NAME": "y"}}))"""
    with Person(driver(body), size=(91, 33)) as person:
        person.wait_for("33 91\r\n")
        assert person.status() == 0
        lines = person.seen.decode().split("\r\n")
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    expected = {"TERM": "vt100", "MORE": "x", "LC_NAME": "y", **here}
    assert {name: found.get(name) for name in expected} == expected
    assert "OTHER" not in found
    assert found["SSH_TTY"].startswith("/dev/")


def test_the_far_terminal_has_the_modes_of_the_local_one():
    """The interrupt character is ^G, as it is here; and the terminal here was not raw."""
    with Person(
        driver("sys.exit(shell(['stty', '-a']))"),
        'stty intr ^G -ixon; "$@"; echo "[status $?]"; cat',
    ) as person:
        assert person.status() == 0
        assert b"intr = ^G;" in person.seen
        assert {b"-ixon", b"icanon", b"echo", b"opost"} <= {*person.seen.split()}


def test_a_resize_reaches_the_far_side():
    with Person(driver("sys.exit(shell())")) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        for columns, lines in ((100, 30), (132, 50)):
            person.set_size(columns, lines)
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            person.type("stty size\r")
            if person.wait_for(r"\n(\d+ \d+)\r\n")[1] == b"50 132":
                break
        else:
            raise AssertionError("the far side did not see the new size")


def test_a_size_of_zero_is_ignored():
    with Person(driver("sys.exit(shell())"), size=(0, 0)) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        person.type("stty size\r")
        person.wait_for("\n24 80\r\n")


def test_single_bytes_are_passed_on():
    """UTF-8 in pieces, typed and printed; ^V and ^C go to the far side."""
    text = "naïve ☃ 🐍".encode()
    body = "sys.exit(shell(['sh', '-c', 'stty raw -echo; echo ready; exec cat']))"
    with Person(driver(body)) as person:
        person.wait_for("ready")
        person.wait_until_raw()
        at = len(person.seen) + 1
        for byte in (b"\n", *(text[n : n + 1] for n in range(len(text))), b"\x16", b"\x03", b"\0"):
            before = len(person.seen)
            person.type(byte)
            while len(person.seen) == before:
                person.read()
        assert person.seen[at:] == text + b"\x16\x03\0"


def test_interrupt_of_yes_within_a_second():
    with Person(driver("sys.exit(shell())")) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        person.type("yes\r")
        while len(person.seen) < 2000000:
            person.read()
        person.at = len(person.seen)
        person.type(b"\x03")
        started = time.monotonic()
        person.wait_for(re.escape("^C"), 5)
        person.wait_for(PROMPT, 5)
        assert time.monotonic() - started < 1
        person.type("exit 5\r")
        assert person.status() == 5


def test_escapes_that_print():
    with Person(driver("sys.exit(shell())")) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        person.type("~#")
        person.wait_for(
            r"~#\r\nThe following connections are open:\r\n  near.far \(process \d+\)\r\n"
        )
        person.type("~?")
        person.wait_for(r"Supported escape sequences:\r\n")
        person.type("~B")
        person.wait_for(r"~B\r\nA pseudo-terminal has no BREAK; nothing was sent.\r\n")
        person.type("\recho a~.b\r")
        person.wait_for("\na~.b\r\n")
        person.type("~~x\r")
        person.wait_for(r"~x.*not found")


def test_the_escape_character_can_be_changed():
    with Person(cli("-e", "^]", "-t", "local", "--", *BASH)) as person:
        person.wait_until_raw()
        person.type("echo one; ~.\r")
        person.wait_for(r"\r\none\r\n")
        person.type(b"\x1d.")
        assert person.status() == 255


def test_escapes_can_be_disabled():
    with Person(cli("-q", "-e", "none", "-t", "local", "--", "cat")) as person:
        person.wait_until_raw()
        person.type("~.\r")
        person.wait_for(r"~.\r\n~.\r\n")
        person.type(b"\x04")
        assert person.status() == 0


def test_log_lines_end_with_a_carriage_return():
    """Records and output while the terminal is raw; afterwards everything is as before."""
    body = """
log = logging.getLogger("some.where")
own = logging.StreamHandler(sys.stderr)
log.addHandler(own)
stream, out = own.stream, sys.stdout
def tell(*_):
    log.warning("first\\nsecond")
    print("third\\r\\nfourth")
    sys.stderr.writelines(["fifth\\n", "sixth\\n"])
signal.signal(signal.SIGUSR1, tell)
status = shell()
assert own.stream is stream and sys.stdout is out and sys.stderr is stream
log.warning("after")
sys.exit(status)"""
    with Person(driver(body)) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        os.kill(person.program(), signal.SIGUSR1)
        person.wait_for("sixth\r\n")
        shown = person.seen[person.seen.index(b"first") : person.at]
        both = b"first\r\nsecond\r\n" * 2  # two handlers
        assert shown == both + b"third\r\nfourth\r\nfifth\r\nsixth\r\n"
        person.type("exit\r")
        person.wait_for("after\r\nafter\r\n")
        assert person.status() == 0


@pytest.fixture
def loggers() -> Iterator[Any]:
    """Yield `loggers(handler)`, which adds the handler to two loggers during the test."""
    added: list[Any] = []

    def add(handler: logging.Handler) -> None:
        for name in ("mitogen.test.one", "mitogen.test.two"):
            logging.getLogger(name).addHandler(handler)
            added.append((name, handler))

    yield add
    for name, handler in added:
        logging.getLogger(name).removeHandler(handler)


def test_streams_are_restored(seats, loggers, monkeypatch):
    """Streams of a handler of two loggers are restored, except those replaced meanwhile."""
    tty = raw_tty.RawTty(seats[0].slave, seats[0].slave)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(open(seat.slave, "w", buffering=1, closefd=False, newline=""))
            for seat in (seats[0], seats[0], seats[1])
        ]
        mine, other, elsewhere = map(logging.StreamHandler, files)
        closed = logging.StreamHandler(open(os.devnull, "w"))
        closed.stream.close()
        for handler in (mine, other, elsewhere, closed, logging.NullHandler()):
            loggers(handler)
        monkeypatch.setattr(sys, "stderr", None)
        with tty, interactive._LineEnds(tty):
            kept = mine.stream
            assert (kept.stream, kept.encoding) == (files[0], files[0].encoding)
            assert elsewhere.stream is files[2]
            other.stream = files[2]
            mine.stream.write("raw\n")
        assert (mine.stream, other.stream) == (files[0], files[2])
        kept.write("as before\n")
        seats[0].wait_for(b"raw\r\nas before\r\n")


def test_output_of_a_context_ends_with_a_carriage_return():
    body = """
logging.getLogger().setLevel(logging.INFO)
def tell(*_):
    threading.Thread(target=context.call, args=(os.system, "echo from far")).start()
signal.signal(signal.SIGUSR1, tell)
sys.exit(shell())"""
    with Person(driver(body)) as person:
        person.wait_for(PROMPT)
        person.wait_until_raw()
        os.kill(person.program(), signal.SIGUSR1)
        person.wait_for("from far\r\n")
        person.type("exit\r")
        assert person.status() == 0


# ---- suspend and resume


@contextlib.contextmanager
def jobs() -> Iterator[Person]:
    """Return a Person in an interactive bash with job control; the driver is its first job."""
    script = pathlib.Path(os.environ["TMPDIR"]) / "far.sh"
    script.write_text("exec " + " ".join(map(shlex.quote, driver("sys.exit(shell())"))))
    try:
        with Person([], "exec bash --norc --noprofile -i") as person:
            person.wait_for("near> ")
            person.type(f"bash {script}\r")
            person.wait_for(PROMPT)
            person.wait_until_raw()
            yield person
    finally:
        script.unlink()


def assert_at_home(person: Person) -> None:
    """Assert that the local bash runs, in the terminal as it was for commands."""
    person.wait_for("near> ")
    person.type("stty -a\r")
    person.wait_for("speed (?s:.*)near> ")
    shown = person.seen[-2000:].split()
    assert {b"icanon", b"echo", b"isig", b"opost", b"icrnl"} <= {*shown}


def assert_far(person: Person, size: str) -> None:
    """Assert that the far bash runs, on a terminal of that size; keys go to the far side again."""
    person.wait_until_raw()
    deadline = time.monotonic() + SOON
    found = None
    while found != size and time.monotonic() < deadline:
        person.type("stty size\r")
        found = person.wait_for(r"\n(\d+ \d+)\r\n")[1].decode()
    assert found == size


def test_suspend_and_resume():
    """Suspend with `~^Z`, look around, enlarge the window, `fg`; twice."""
    with jobs() as person:
        for columns, lines in ((132, 50), (70, 20)):
            person.type("\r~\x1a")
            person.wait_for(r"~\^Z \[suspended\]\r\n")
            person.wait_for("Stopped")
            assert_at_home(person)
            person.set_size(columns, lines)
            person.type("fg\r")
            person.wait_for("bash .*far.sh")
            assert_far(person, f"{lines} {columns}")
        person.type("exit 3\r")
        person.wait_for("Connection to near.far closed.")
        person.wait_for("near> ")
        person.type("echo =$?=\r")
        person.wait_for("\n=3=\r\n")


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_stopped_program_resumes(number):
    with jobs() as person:
        program = person.program()
        os.kill(program, number)
        person.wait_for("Stopped")
        if number == signal.SIGTSTP:
            assert_at_home(person)
        else:
            person.wait_for("near> ")
        person.set_size(132, 50)
        person.type("fg\r")
        person.wait_for("bash .*far.sh")
        assert_far(person, "50 132")
        person.type("exit\r")
        person.wait_for("Connection to near.far closed.")


def test_a_program_in_the_background_can_end():
    """The terminal belongs to the shell then: it is neither changed nor waited for."""
    with jobs() as person:
        program = person.program()
        person.type("\r~\x1a")
        person.wait_for("Stopped")
        assert_at_home(person)
        person.type("kill %1; bg\r")
        processes.wait_until(lambda: not processes.alive(program), SOON, "its end")
        person.type("\r")
        assert_at_home(person)


# ---- without a terminal


def run(argv: list[str], **kwargs: Any) -> "subprocess.CompletedProcess[bytes]":
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    if "input" in kwargs:
        del kwargs["stdin"]
    for name in ("stdout", "stderr"):
        kwargs.setdefault(name, subprocess.PIPE)
    return subprocess.run(argv, env=environ(), timeout=60, **kwargs)


def test_a_megabyte_is_passed_both_ways(tmp_path):
    data = os.urandom(1 << 20)
    done = run(cli("local", "local", "--", "cat"), input=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")
    path = tmp_path / "data"
    path.write_bytes(data)
    with path.open("rb") as source, (tmp_path / "copy").open("wb") as target:
        assert run(cli("local", "--", "cat"), stdin=source, stdout=target).returncode == 0
    assert (tmp_path / "copy").read_bytes() == data


def test_end_of_input_and_separate_stderr():
    """All input is read before the answer arrives; `~.` is data."""
    done = run(cli("local", "--", "cat; echo done; echo oops >&2; exit 4"), input=b"\n~.\n")
    assert (done.returncode, done.stdout, done.stderr) == (4, b"\n~.\ndone\n", b"oops\n")


def test_a_script_is_read_by_the_login_shell():
    done = run(cli("local"), input=b"tty; exit 6\n")
    assert (done.returncode, done.stdout) == (6, b"not a tty\n")


def test_a_terminal_can_be_forced():
    done = run(cli("-tt", "local", "--", "tty; exit 6"))
    assert done.returncode == 6
    assert done.stdout.startswith(b"/dev/")
    assert done.stderr == b""


def test_a_requested_terminal_may_be_missing():
    done = run(cli("-t", "local", "--", "tty"))
    assert done.stdout == b"not a tty\n"
    assert b"use -tt to force one" in done.stderr


def test_a_command_gets_no_terminal_by_default():
    """It reads typed text up to ^D; the terminal here stays as it is."""
    with Person(cli("local", "--", "tty; cat; exit 2")) as person:
        person.wait_for("not a tty\r\n")
        assert person.attrs() == person.before
        person.type("line\n")
        person.wait_for("line\r\nline\r\n")
        person.type(b"~.\n\x04")
        assert person.status() == 2
        assert b"Connection" not in person.seen


def test_a_shell_may_have_no_terminal():
    with Person(cli("-T", "local")) as person:
        person.type("tty; exit 2\n")
        person.wait_for("not a tty\r\n")
        assert person.status() == 2


def test_keys_typed_after_the_program_go_to_the_next_one():
    leader = '"$@"; read line; echo "[line $line]"; exec cat >/dev/null'
    with Person(cli("local", "--", "echo ready"), leader) as person:
        person.wait_for("ready\r\n")
        processes.wait_until(
            lambda: (
                not any(
                    each.comm.startswith("python")
                    for each in processes.process_tree(person.leader.pid)
                )
            )
        )
        person.type("for the shell\n")
        person.wait_for(r"\[line for the shell\]")


def test_an_interrupt_without_a_terminal_ends_the_command():
    with Person(cli("local", "--", "echo pid=$$; sleep 1000")) as person:
        far = int(person.wait_for(r"pid=(\d+)")[1])
        person.type(b"\x03")
        assert person.status() == 130
        # This is less than the grace period after the end of input.
        processes.wait_until(lambda: not processes.alive(far), 3, "end of the command")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_stdio_may_be_closed(closed, tmp_path):
    leader = f'"$@" {closed}; echo "[status $?]"; exec cat >/dev/null'
    command = f"cat; echo out; echo err >&2; echo $? >{tmp_path}/file; exit 3"
    with Person(cli("local", "--", command), leader) as person:
        if "<" not in closed:
            person.type(b"\x04")
        assert person.status() == 3
        assert (tmp_path / "file").exists()


# ---- several at once, and slow ones


def test_several_persons_at_once():
    with contextlib.ExitStack() as stack:
        people = [stack.enter_context(Person(driver("sys.exit(shell())"))) for _ in range(4)]
        for person in people:
            person.wait_for(PROMPT)
        for number, person in enumerate(people):
            person.type(f"echo person={number}; exit {number}\r")
        for number, person in enumerate(people):
            person.wait_for(f"\nperson={number}\r\n")
            assert person.status() == number
            assert person.attrs() == person.before


class Seat:
    """A pty for a shell() in this process."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

    def wait_for(self, text: bytes) -> None:
        while text not in self.seen:
            assert select.select([self.master], [], [], SOON)[0], self.seen
            self.seen += os.read(self.master, 65536)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def seats() -> Iterator[list[Seat]]:
    seats = [Seat() for _ in range(4)]
    yield seats
    for seat in seats:
        seat.close()


@pytest.fixture
def far(own_router: Any) -> Any:
    return own_router.local(via=own_router.local(), name="far")


def sit(context: Any, seat: Seat, argv: Any, **kwargs: Any) -> "tuple[threading.Thread, list[Any]]":
    """Run shell() on a thread; return the thread and a list that receives the result."""
    result: list[Any] = []
    fds = {"stdin": seat.slave, "stdout": seat.slave, "stderr": seat.slave}

    def body() -> None:
        result.append(terminal.shell(context, argv, **{"tty": True, **fds, **kwargs}))

    thread = threading.Thread(target=body)
    thread.start()
    return thread, result


def test_several_threads_at_once(far, seats):
    """They run in one process and use one context; no signal reports a new size here."""
    command = 'echo ready; read x; stty size; exit "$x"'
    threads = [sit(far, seat, command) for seat in seats]
    for number, seat in enumerate(seats):
        seat.wait_for(b"ready\r\n")
        fcntl.ioctl(seat.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40 + number, 90, 0, 0))
    for number, (seat, (thread, result)) in enumerate(zip(seats, threads)):
        os.write(seat.master, b"%d\r" % number)
        seat.wait_for(b"%d 90\r\n" % (40 + number))
        seat.wait_for(b"Connection to %s closed.\r\n" % far.name.encode())
        thread.join(SOON)
        assert result == [number]
        assert termios.tcgetattr(seat.slave) == seat.before


def memory(pid: Any = "self") -> int:
    """Return the resident memory of a process, in bytes."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024


def test_an_unread_terminal_does_not_block_calls(far, seats):
    """A program prints for five seconds and nothing reads: calls go on, memory stays bounded."""
    seat = seats[0]
    command = "echo pid=$$; exec yes"
    thread, result = sit(far, seat, command)
    seat.wait_for(b"y\r\n" * 100)
    far.call(os.getpid)
    pids = ["self", far.call(os.getpid), far.call(os.getppid)]
    before = [memory(pid) for pid in pids]
    slowest, calls = 0.0, 0
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        started = time.monotonic()
        far.call(os.getpid)
        slowest = max(slowest, time.monotonic() - started)
        calls += 1
    assert calls > 100
    assert slowest < 0.5
    after = [memory(pid) for pid in pids]
    assert max(b - a for a, b in zip(before, after)) < 2 << 20, (before, after)
    # After the interrupt it prints the data in transit, and ends.
    os.write(seat.master, b"\x03")
    seat.wait_for(b"^C")
    seat.wait_for(b"closed.\r\n")
    thread.join(SOON)
    assert result == [128 + signal.SIGINT]


def test_disconnect_works_while_the_screen_is_not_read(far, seats):
    """The far side ends although its output is never read."""
    seat = seats[0]
    thread, result = sit(far, seat, "echo pid=$$; exec yes", stderr=-1)
    seat.wait_for(b"y\r\n" * 100)
    pid = int(re.search(rb"pid=(\d+)", seat.seen)[1])
    # Wait until no more arrives: the pty and everything before it is full.
    processes.wait_until(lambda: not select.select([], [seat.slave], [], 0)[1], SOON)
    os.write(seat.master, b"\r~.")
    thread.join(SOON)
    assert result == [255]
    assert termios.tcgetattr(seat.slave) == seat.before
    processes.wait_until(lambda: not processes.alive(pid), SOON, "end of yes")


def test_a_second_run_in_the_same_process(far, seats):
    descriptors = None
    for number in range(3):
        thread, result = sit(far, seats[0], f"exit {number}")
        thread.join(SOON)
        assert result == [number]
        if descriptors is None:
            descriptors = len(os.listdir("/proc/self/fd"))
    processes.wait_until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


# ---- tmux


class Tmux:
    """A private tmux server with one window that runs a command."""

    def __init__(self, directory: pathlib.Path, argv: list[str]) -> None:
        self.env = dict(environ(), TMUX_TMPDIR=str(directory), LC_ALL="C.UTF-8")
        self.env.pop("TMUX", None)
        conf = directory / "conf"
        conf.write_text("set -g status off\n")
        command = " ".join(map(shlex.quote, ["sh", "-c", Person.LEADER, "sh", *argv]))
        self("-f", str(conf), "new-session", "-d", "-x", "90", "-y", "30", command)

    def __call__(self, *args: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", "mitogen-test", *args],
            env=self.env,
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        return done.stdout

    def type(self, *keys: str) -> None:
        self("send-keys", *keys)

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def ask(self, name: str) -> str:
        return self("display-message", "-p", "#{%s}" % name).strip()

    def wait_for(self, text: str) -> None:
        try:
            processes.wait_until(lambda: text in self.screen(), SOON)
        except AssertionError:
            raise AssertionError(f"no {text!r} in:\n{self.screen()}") from None

    def end(self) -> None:
        pid = int(self.ask("pid"))
        self("kill-server")
        processes.wait_until(lambda: not processes.alive(pid), SOON, "end of tmux")


needs_vi = pytest.mark.skipif(not hosts.program("vi"), reason="needs vi (Debian: vim-tiny)")


@pytest.fixture
def tmux(tmp_path: pathlib.Path) -> Iterator[Tmux]:
    if not hosts.program("tmux"):
        pytest.skip("needs tmux")
    tmux = Tmux(tmp_path, driver("sys.exit(shell())"))
    yield tmux
    tmux.end()


@needs_vi
def test_an_editor_in_tmux(tmux, tmp_path):
    """Check the alternate screen and back, and characters wider than a byte."""
    tmux.wait_for(PROMPT.strip())
    tmux.type(f"vi -u NONE {tmp_path}/text", "Enter")
    processes.wait_until(lambda: tmux.ask("alternate_on") == "1", SOON, "vi's screen")
    tmux.wait_for("~\n~\n")
    tmux.type("inaïve ☃", "Enter", "second")
    tmux.wait_for("naïve ☃\nsecond\n~")
    tmux.type("Escape")
    tmux.type(":wq", "Enter")
    processes.wait_until(lambda: tmux.ask("alternate_on") == "0", SOON, "the screen as before")
    tmux.wait_for(f"{PROMPT}vi -u NONE")
    assert (tmp_path / "text").read_text(encoding="utf-8") == "naïve ☃\nsecond\n"
    tmux.type("exit 4", "Enter")
    tmux.wait_for("Connection to near.far closed.")
    tmux.wait_for("[status 4]")


def test_a_resize_in_tmux(tmux):
    def size() -> str:
        tmux.type("clear; stty size", "Enter")
        return tmux.screen()

    tmux.wait_for(PROMPT.strip())
    tmux.type("stty size", "Enter")
    tmux.wait_for("30 90")
    tmux("resize-window", "-x", "132", "-y", "50")
    processes.wait_until(lambda: "50 132" in size(), SOON, "the new size")


# ---- docs/howto/root-shell.rst

PAGE = ROOT / "docs" / "howto" / "root-shell.rst"


def blocks(kind: str) -> list[str]:
    """Return the page's code blocks of one kind."""
    found = re.findall(
        rf"\.\. code-block:: {kind}\n(?:   :.*\n)?\n((?:   .*\n|\n)+)", PAGE.read_text()
    )
    return [re.sub("(?m)^   ", "", text).strip() + "\n" for text in found]


def lines_of_the_page() -> list[str]:
    return [line for text in blocks("console") for line in text.splitlines()]


@pytest.fixture
def place(sshd, users, hosts_directory, tmp_path):
    """Return `place(kind)`, the replacement of the page's host names for a kind of account."""
    keys = []

    def place(kind: str) -> Any:
        user = getattr(users, kind)
        # ssh refuses a key that others can read, so on the second host it must belong to the user.
        key = hosts_directory / f"shell_key_of_{user.name}"
        shutil.copy(sshd.identity_file, key)
        os.chown(key, user.uid, -1)
        keys.append(key)
        options = {"check_host_keys": "ignore", "identity_file": str(key)}
        text = "&".join(f"{k}={urllib.parse.quote(v, '')}" for k, v in options.items())
        spec = f"ssh:{user.name}@{sshd.hostname}:{sshd.port}?{text}"
        return lambda text: re.sub(r"ssh:ann@\w+\.example\.com", lambda _: spec, text)

    yield place
    for key in keys:
        key.unlink()


def as_here(command: str) -> list[str]:
    """Return the argv for a line of the page, with `mitogen` from this checkout."""
    return ["sh", "-c", f'mitogen() {{ {sys.executable} -m mitogen "$@"; }}; {quoted(command)}']


def quoted(command: str) -> str:
    """Return a line with its specs quoted, because ours contain ampersands."""
    return re.sub(r"ssh:\S+", lambda found: shlex.quote(found[0]), command)


@pytest.mark.root
@pytest.mark.ssh
def test_the_pages_shell(place):
    with Person(as_here(place("plain")(lines_of_the_page()[0]))) as person:
        person.wait_until_raw()
        person.type("unset HISTFILE; echo =$(id -un)=$PWD=; exit 9\r")
        person.wait_for("=root=/root=\r\n")
        person.wait_for("Connection to .* closed.\r\n")
        assert person.status() == 9


@pytest.mark.root
@pytest.mark.ssh
def test_the_pages_commands(place, tmp_path):
    _, *commands, copy = map(place("plain"), lines_of_the_page())
    assert [run(as_here(command)).stdout for command in commands] == [b"toor\n", b"two words\n"]
    assert run(as_here(copy), cwd=tmp_path).returncode == 0
    assert (tmp_path / "hostname").read_bytes() == pathlib.Path("/etc/hostname").read_bytes()


@pytest.mark.root
@pytest.mark.ssh
def test_the_pages_program(place, users, tmp_path):
    (source,) = blocks("python")
    path = tmp_path / "root_shell.py"
    path.write_text(place("pw")(source))
    with Person([sys.executable, str(path)]) as person:
        person.wait_for("sudo password: ")
        person.type(users.pw.password + "\n")
        # The account has its own prompt.
        processes.wait_until(
            lambda: person.attrs()[3] & termios.ECHO, SOON, "end of the password prompt"
        )
        person.wait_until_raw()
        person.type('unset HISTFILE; echo "=$(id -un)=$EDITOR="; exit 9\r')
        person.wait_for("=root=vi=\r\n")
        person.wait_for("editors that still run: 0\r\n")
        assert person.status() == 9


# ---- misuse


@pytest.mark.parametrize(
    "argv, error",
    [(["/nonexistent/program"], FileNotFoundError), (["/etc/passwd"], PermissionError)],
)
@pytest.mark.parametrize("tty", [True, False])
def test_a_missing_program_is_an_error(far, seats, argv, error, tty):
    seat = seats[0]
    fds = {"stdin": seat.slave, "stdout": seat.slave, "stderr": seat.slave}
    with pytest.raises(error):
        far.shell(argv, tty=tty, **fds)
    assert termios.tcgetattr(seat.slave) == seat.before
    assert not select.select([seat.master], [], [], 0)[0]


def test_an_ended_context_is_an_error(far, seats):
    far.shutdown(wait=True)
    fds = {"stdin": seats[0].slave, "stdout": seats[0].slave, "stderr": seats[0].slave}
    with pytest.raises(core.ChannelError):
        far.shell(**fds)


def test_a_bad_escape_character_is_refused(far):
    with pytest.raises(ValueError, match="not an escape character"):
        far.shell(escape="~~")


def test_an_unknown_subsystem_is_an_error(far):
    with pytest.raises(process.Refused, match="no subsystem"):
        far.shell(process.Subsystem("nonsense"), tty=False, stdin=-1)


@pytest.mark.parametrize(
    "args, status, text",
    [
        (["nonsense"], 255, "is not a connection method"),
        (["local?nonsense=1"], 255, "no option"),
        (["local", "--", "/nonexistent/program", "x"], 127, "No such file"),
        (["local", "--", "/etc/passwd", "x"], 126, "Permission denied"),
        (["local", "--", "/nonexistent/program"], 127, "/nonexistent/program"),
        (["local", "--", "kill -9 $$"], 137, ""),
        (["ssh:user@localhost:1?python_path=%2Fnone", "--", "true"], 255, "mitogen shell: "),
        (["-e", "ab", "local"], 2, "is not an escape character"),
        (["-t", "-T", "local"], 2, "not allowed with"),
        ([], 2, "required: SPEC"),
        (["--", "ls"], 2, "required: SPEC"),
    ],
)
def test_the_command_line_prints_errors(args, status, text):
    done = run(cli(*args))
    assert done.returncode == status
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_the_command_line_connects_without_keepalives():
    """A suspended program cannot answer keepalives; a spec may enable them."""
    made = []

    class Router:
        def connect(self, method: str, via: Any, **options: Any) -> str:
            made.append((method, via, options))
            return f"context {len(made)}"

    found = cli_module._connect(Router(), ["ssh:ann@a/sudo", "ssh:b?keepalive_enabled=true"])
    assert found == "context 3"
    assert made == [
        ("ssh", None, {"username": "ann", "hostname": "a", "keepalive_enabled": False}),
        ("sudo", "context 1", {}),
        ("ssh", "context 2", {"hostname": "b", "keepalive_enabled": True}),
    ]


def test_other_subcommands_take_no_command():
    done = run([sys.executable, "-m", "mitogen", "demo", "--", "ls"])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"unrecognized arguments: -- ls" in done.stderr
