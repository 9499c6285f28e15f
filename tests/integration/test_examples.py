"""The programs of examples/ and of the tutorial, run as their readers run them.

Each runs as a separate process, in an empty directory and with an empty TMPDIR. It must leave no
process and no file behind, and print only expected text on standard error.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests import hosts, processes
from tests.checkout import ROOT

EXAMPLES = ROOT / "examples"
TUTORIAL = ROOT / "docs" / "tutorial" / "index.rst"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))

#: Name -> (arguments, regular expression for standard output).
OUTPUTS = {
    "chain": (
        [],
        "".join(f"a context {depth} below the program\n" for depth in range(1, 11))
        + r"best round trip to the bottom: \d+\.\d{3} ms\n",
    ),
    "distribute": (
        ["--children", "4", "--size", "3"],
        "(a copy of 3145728 bytes, mode 600, content the same\n){4}",
    ),
    "executor": (
        [],
        "200 calls in 4 contexts\n"
        "the last one's result: 199! has 373 digits\n"
        "meanwhile the event loop was free\n",
    ),
    "jumphost": (
        [],
        r"jump host: (\S+), 1 away\ntarget: \1, 2 away\n"
        + ("root: root, 3 away\n" if os.geteuid() == 0 else ""),
    ),
    "new_ways": (
        [],
        r"""connect_many: 4 of 5 are there
submit: \[1, 4, 9, 16\]
cancel: the context is free again, 100
put and get: hello, in \['greeting'\]
aio: \[0, 1, 4\]
aio: a timeout interrupts the call, 100
aio: \[3, 2, 1\]
""",
    ),
    "pingpong": (
        ["--rounds", "4"],
        r"ping heard \[2, 4, 6, 8\]\npong heard \[1, 3, 5, 7\]\n",
    ),
    "service": (
        [],
        """alpha has 4 disks, all together have 4
beta has 8 disks, all together have 12
a child may report nonsense: False
a child may forget all: False
an inventory of alpha's own has 0
""",
    ),
    "threads": (
        [],
        "".join(f"thread {n}: {n} squared is {n * n}\n" for n in range(1, 11))
        + "10 processes, all of them ended\n",
    ),
}

#: Name -> arguments that make the program run for a long time.
LONG = {
    "chain": ["--calls", "0"],
    "daemon": ["start"],
    "distribute": ["--children", "4", "--size", "100"],
    "executor": ["--calls", "10000"],
    "jumphost": [],
    "nested_selects": ["--size", "1000000"],
    "new_ways": [],
    "pingpong": ["--rounds", "100000000"],
    "service": [],
    "threads": ["--threads", "40"],
    "top": [],
}

#: Number of printed lines, or of contexts, that shows that a program is busy.
LINES = {"chain": 10, "nested_selects": 1, "top": 1}
CONTEXTS = {"distribute": 4, "executor": 4, "pingpong": 2, "threads": 10}

#: Arguments that a program refuses.
WRONG = {
    "chain": ["--depth", "0"],
    "daemon": ["restart"],
    "distribute": ["--children", "0"],
    "executor": ["--contexts", "none"],
    "jumphost": ["--jump", "somewhere"],
    "nested_selects": ["--workers", "0"],
    "new_ways": ["--old"],
    "pingpong": ["--rounds", "-1"],
    "service": ["please"],
    "threads": ["--threads", "0"],
    "top": ["--count", "-1"],
}


class Place:
    """An environment for programs: directory, variables, interpreter."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.cwd = directory / "cwd"
        self.tmpdir = directory / "tmp"
        self.cwd.mkdir()
        self.tmpdir.mkdir()
        self.started: list[subprocess.Popen[str]] = []
        self.root = ROOT
        self.python = sys.executable
        self.options: dict[str, Any] = {"cwd": self.cwd, "text": True, "start_new_session": True}

    @property
    def environ(self) -> dict[str, str]:
        return dict(os.environ, PYTHONPATH=str(self.root), TMPDIR=str(self.tmpdir))

    def command(self, name: str, args: Sequence[str]) -> list[str]:
        return [self.python, str(self.root / "examples" / (name + ".py")), *args]

    def run(self, name: str, *args: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run an example to its end."""
        options = {"stdin": subprocess.DEVNULL, **self.options, **options}
        if "input" in options:
            del options["stdin"]
        return subprocess.run(
            self.command(name, args), capture_output=True, timeout=60, env=self.environ, **options
        )

    def start(self, name: str, *args: str) -> "subprocess.Popen[str]":
        """Start an example in its own process group, as a shell does."""
        pipe = subprocess.PIPE
        program = subprocess.Popen(
            self.command(name, args), stdout=pipe, stderr=pipe, env=self.environ, **self.options
        )
        self.started.append(program)
        return program

    def end(self) -> None:
        """Kill the programs that a failed test left running."""
        for program in self.started:
            with program:
                if program.poll() is None:
                    program.kill()

    def output(self, name: str, *args: str, **options: Any) -> str:
        """Return the output of an example; it must succeed and write nothing to stderr."""
        done = self.run(name, *args, **options)
        assert (done.returncode, done.stderr) == (0, "")
        return str(done.stdout)

    def files(self) -> list[str]:
        return [str(path) for top in (self.cwd, self.tmpdir) for path in top.rglob("*")]


def marked() -> dict[int, processes.Process]:
    """Return this run's processes except zombies: an orphan is reaped by init, at any time."""
    found = processes.marked_processes(str(os.getpid()))
    return {each.pid: each for each in found if each.state not in "ZX"}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> Iterator[Place]:
    """Yield a Place to run programs in; leftovers of a program fail the test."""
    before = marked()
    place = Place(tmp_path)
    yield place
    place.end()
    processes.wait_until(
        lambda: marked().keys() <= before.keys(), what="end of all started processes"
    )
    assert place.files() == []


def test_every_program_is_tested():
    assert {*OUTPUTS, "daemon", "nested_selects", "top"} == set(NAMES)
    assert set(LONG) == set(WRONG) == set(NAMES)


def test_the_readme_lists_every_program():
    text = (EXAMPLES / "README.rst").read_text()
    assert sorted(set(re.findall(r"<(\w+)\.py>", text))) == NAMES


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_program_prints_its_output(name, place):
    args, expected = OUTPUTS[name]
    output = place.output(name, *args)
    assert re.fullmatch(expected, output), output


def test_nested_selects_counts_primes(place):
    lines = place.output("nested_selects", "--workers", "3", "--size", "20000").splitlines()
    for worker in ("worker0", "worker1", "worker2"):
        steps = [line for line in lines if line.startswith(worker) and line.endswith("done")]
        assert steps == [f"{worker}: {percent} % done" for percent in range(10, 101, 10)]
    # The figures are from a table of the prime-counting function.
    assert lines[30:] == [
        "worker0 found 2262 primes",
        "worker1 found 1941 primes",
        "worker2 found 1854 primes",
        "together: 6057 below 60000",
    ]


def test_top_prints_the_requested_number_of_tables(place):
    output = place.output("top", "--count", "3", "--interval", "0.01")
    number = r" +\d+\.\d\d"
    rows = "".join(rf"local{n}(?:{number}){{4}}\n" for n in (1, 2, 3))
    assert re.fullmatch(rf"(?:HOST +LOAD 1 +LOAD 5 +LOAD 15 +CPU s\n{rows}\n){{3}}", output), output


def test_top_ends_when_a_host_is_lost(place):
    program = place.start("top")
    assert program.stdout.readline().startswith("HOST")
    os.kill(processes.process_tree(program.pid)[0].pid, signal.SIGKILL)
    _, stderr = program.communicate(timeout=20)
    assert (program.returncode, stderr) == (1, "a host was lost\n")


def test_daemon_starts_serves_and_stops(place):
    path = place.tmpdir / f"mitogen-daemon-{os.getuid()}"
    assert place.output("daemon", "start") == "started\n"
    assert path.is_socket()

    again = place.run("daemon", "start")
    assert (again.returncode, again.stderr) == (1, "it is running already\n")
    first = place.output("daemon", "status")
    assert re.fullmatch(r"process \d+ is running; requests: 1\n", first)
    assert place.output("daemon", "status") == first.replace(": 1", ": 2")

    assert place.output("daemon", "stop") == "stopped\n"
    processes.wait_until(lambda: not path.exists(), what="removal of the socket")
    for action in ("status", "stop"):
        done = place.run("daemon", action)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(rf"cannot connect to {path}: .*\n", done.stderr)


def test_daemon_is_joined_by_several_and_can_be_restarted(place):
    socket = ["--socket", str(place.tmpdir / "socket")]
    for _ in range(2):
        place.output("daemon", "start", *socket)
        joined = [place.start("daemon", "status", *socket) for _ in range(4)]
        ends = [each.communicate(timeout=20) for each in joined]
        assert {stderr for _, stderr in ends} == {""}
        counts = sorted(int(stdout.rpartition(":")[2]) for stdout, _ in ends)
        assert counts == [1, 2, 3, 4]
        place.output("daemon", "stop", *socket)
    processes.wait_until(lambda: not place.files(), what="removal of the socket")


def test_daemon_replaces_the_socket_of_a_killed_one(place):
    place.output("daemon", "start")
    pid = re.search(r"process (\d+)", place.output("daemon", "status"))
    assert pid
    os.kill(int(pid[1]), signal.SIGKILL)
    processes.wait_until(lambda: not processes.alive(int(pid[1])), what="end of the daemon")
    assert place.output("daemon", "start") == "started\n"
    assert place.output("daemon", "stop") == "stopped\n"
    processes.wait_until(lambda: not place.files(), what="removal of the socket")


# ---- logins


@pytest.fixture
def jump(sshd, users, hosts_directory) -> Iterator[Any]:
    """Yield `jump(user)`: options that make jumphost.py log in twice as `user` by key."""
    made = []

    def jump(user: hosts.User) -> list[str]:
        # ssh refuses a key that others can read, so on the second host it must belong to the user.
        key = hosts_directory / f"key_of_{user.name}"
        shutil.copy(sshd.identity_file, key)
        os.chown(key, user.uid, -1)
        made.append(key)
        options = {"jump": sshd.hostname, "target": sshd.hostname, "port": sshd.port}
        options.update({"user": user.name, "identity-file": key})
        return [f"--{name}={value}" for name, value in options.items()]

    yield jump
    for key in made:
        key.unlink()


@pytest.mark.root
@pytest.mark.ssh
def test_jumphost_over_ssh(jump, users, place):
    output = place.output("jumphost", *jump(users.plain), "--check-host-keys=ignore")
    name = users.plain.name
    assert output == f"jump host: {name}, 1 away\ntarget: {name}, 2 away\nroot: root, 3 away\n"


@pytest.mark.root
@pytest.mark.ssh
def test_jumphost_asks_for_a_password(jump, users, place):
    options = [*jump(users.pw), "--check-host-keys=ignore", "--ask-sudo-password"]
    command = ["env", *(f"{name}={place.environ[name]}" for name in ("PYTHONPATH", "TMPDIR"))]
    status, output = hosts.converse(
        command + place.command("jumphost", options), [("sudo password: ", users.pw.password)], 30
    )
    assert (status, output.splitlines()[-1]) == (0, "root: root, 3 away")


@pytest.mark.root
@pytest.mark.ssh
def test_jumphost_fails_if_sudo_is_refused(jump, users, place):
    """The last hop fails: all earlier ones end too."""
    done = place.run("jumphost", *jump(users.motd), "--check-host-keys=ignore")
    assert done.returncode == 1
    assert "target: " + users.motd.name in done.stdout
    assert "mitogen.sudo.PasswordError" in done.stderr


@pytest.mark.root
@pytest.mark.ssh
def test_jumphost_fails_if_the_host_key_is_unknown(jump, users, place):
    done = place.run("jumphost", *jump(users.plain))
    assert (done.returncode, done.stdout) == (1, "")
    assert "mitogen.ssh.HostKeyError" in done.stderr


@pytest.mark.root
def test_jumphost_without_root(users, place, hosts_directory):
    """The user gets a copy of the checkout, which other accounts may be unable to read."""
    place.root = hosts_directory / "checkout"
    try:
        for part in ("mitogen", "examples"):
            shutil.copytree(ROOT / part, place.root / part)
        place.python = "/usr/bin/python3"
        place.options["cwd"] = users.plain.home
        output = place.output("jumphost", user=users.plain.uid)
    finally:
        shutil.rmtree(place.root)
    name = users.plain.name
    assert output == f"jump host: {name}, 1 away\ntarget: {name}, 2 away\n"


# ---- what every program does


@pytest.mark.parametrize("name", NAMES)
def test_help_contains_the_docstring(name, place):
    output = place.output(name, "--help")
    source = (EXAMPLES / (name + ".py")).read_text()
    docstring = source.split('"""')[1]
    assert output.startswith(f"usage: {name}.py [-h]")
    assert docstring.strip() in output


@pytest.mark.parametrize("name", NAMES)
def test_wrong_arguments_are_refused(name, place):
    done = place.run(name, *WRONG[name])
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(rf"usage: {name}\.py .*\n{name}\.py: error: .*\n\Z", done.stderr, re.S)


def has_child(program: "subprocess.Popen[str]") -> bool:
    tree = processes.process_tree(program.pid)
    return program.poll() is not None or any(each.comm.startswith("mitogen:") for each in tree)


def interrupt(program: "subprocess.Popen[str]", group: bool) -> tuple[str, str]:
    """Interrupt a program, like a terminal (its group) or like `kill` (itself); return its output.

    It has 5 s to end.
    """
    if program.poll() is None:
        (os.killpg if group else os.kill)(program.pid, signal.SIGINT)
    return program.communicate(timeout=5)


def assert_only_interrupted(stderr: str) -> None:
    """Assert that Python printed only a traceback: no record, no ignored exception."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith(" ")]
    allowed = r"Traceback|KeyboardInterrupt|During handling|asyncio\.exceptions\.CancelledError"
    assert [line for line in lines if not re.match(allowed, line)] == []


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "kill"])
@pytest.mark.parametrize("name", NAMES)
def test_interrupt_while_starting_leaves_nothing(name, group, place):
    program = place.start(name, *LONG[name])
    processes.wait_until(lambda: has_child(program))
    _, stderr = interrupt(program, group)
    if name == "daemon":
        # The daemon may have detached just before: in that case it stays, as it should.
        place.run("daemon", "stop")
        processes.wait_until(lambda: not place.files(), what="removal of the socket")
    assert program.returncode in (0, -signal.SIGINT)
    assert_only_interrupted(stderr)


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "kill"])
@pytest.mark.parametrize("name", [*LINES, *CONTEXTS])
def test_interrupt_while_working_leaves_nothing(name, group, place):
    program = place.start(name, *LONG[name])
    if name in LINES:
        for _ in range(LINES[name]):
            program.stdout.readline()
    else:
        contexts = CONTEXTS[name]
        processes.wait_until(lambda: len(processes.process_tree(program.pid)) >= contexts)
    _, stderr = interrupt(program, group)
    assert program.returncode == (0 if name in ("chain", "top") else -signal.SIGINT)
    assert_only_interrupted(stderr)


# ---- the tutorial


def steps() -> dict[str, tuple[str, str]]:
    """Return {name of a program: (source, output)}; `...` in the output stands for varying text."""
    block = r"((?:   .*\n|\n)+)"
    pattern = rf"\.\. code-block:: python\n   :caption: (\S+)\n\n{block}::\n\n{block}"
    found = re.findall(pattern, TUTORIAL.read_text())
    return {
        name: tuple(re.sub(r"(?m)^   ", "", text).strip() + "\n" for text in texts)
        for name, *texts in found
    }


def test_the_tutorial_has_steps():
    assert len(steps()) == TUTORIAL.read_text().count("code-block:: python") == 5


@pytest.mark.parametrize("name", steps())
def test_a_step_of_the_tutorial_prints_its_output(name, place, tmp_path):
    source, expected = steps()[name]
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / name).write_text(source)
    place.command = lambda name, args: [sys.executable, str(tmp_path / "examples" / name), *args]
    pattern = re.escape(expected).replace(re.escape("..."), r"\S+")
    assert re.fullmatch(pattern, place.output(name))
