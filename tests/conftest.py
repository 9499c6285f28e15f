"""Fixtures for every test: hosts on demand, and a check that the run left nothing behind.

Rules: the environment is cleaned before tests are collected; shared objects are made once per
session, on first use; a fixture that this machine cannot provide skips the test with the reason.
"""

import gc
import os
import pathlib
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import pytest

from tests import hosts, processes

# Python variables change the behavior under test (PYTHONUNBUFFERED makes startup 30 % slower); the
# others make ssh ask an agent or open windows.
DROP = re.compile(r"PYTHON|SSH_AUTH_SOCK\Z|SSH_AGENT_PID\Z|SSH_ASKPASS|DISPLAY\Z|SUDO_|MITOGEN_")

# Descriptors that may be open at the end of the run although they were not at the start.
MAY_STAY_OPEN = re.compile(r"/dev/u?random\Z|.*/\.coverage|.*/\.hypothesis/")

# Processes found by `leftovers` and listed in the summary.
STRANGERS = pytest.StashKey[list[processes.Process]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="run every playbook on every release of Ansible, where a sample is run otherwise",
    )


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if DROP.match(name)]:
        del os.environ[name]
    os.environ[processes.RUN_VARIABLE] = str(os.getpid())
    # Under nohup, processes inherit these signals as ignored; so do a shell's background commands.
    # Tests send them.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that this machine cannot run, with the reason."""
    reasons = {}
    if os.geteuid() != 0:
        reasons["root"] = "needs root: makes accounts or changes /etc"
    if not hosts.program("sshd"):
        reasons["ssh"] = "needs openssh-server (`sshd` is not installed)"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def open_descriptors() -> Counter[str]:
    """Return {open file: count} of this process, without descriptor numbers (they are reused)."""
    found: list[str] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except FileNotFoundError:  # the descriptor that listed the directory
            continue
        found.append(re.sub(r":\[\d+\]", "", target))
    return Counter(name for name in found if not MAY_STAY_OPEN.match(name))


def own_processes() -> list[processes.Process]:
    """Return the processes of this run: those with its mark, and all descendants of this one."""
    return processes.children() + processes.marked_processes(str(os.getpid()))


def left_over(before: Sequence[processes.Process]) -> list[processes.Process]:
    """Return the processes that this run should have ended."""
    known = {(each.pid, each.start) for each in before}
    unique = {each.pid: each for each in own_processes() if (each.pid, each.start) not in known}
    return list(unique.values())


def strangers(before: Sequence[processes.Process]) -> list[processes.Process]:
    """Return new processes named `mitogen:...` that may belong to any program on this machine.

    A context of this run that lost its mark would be among them, so they are reported. They are
    never ended. Processes of another run that is still in progress are left out.
    """
    known = {(each.pid, each.start) for each in [*before, *own_processes()]}
    return [
        each
        for each in processes.mitogen_processes()
        for run in [processes.environment(each.pid).get(processes.RUN_VARIABLE, "")]
        if (each.pid, each.start) not in known and not (run.isdigit() and processes.alive(int(run)))
    ]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash.get(STRANGERS, [])
    if found:
        terminalreporter.section("mitogen processes without the mark of this run, left alone")
        for each in found:
            terminalreporter.line(str(each))


@pytest.fixture(scope="session", autouse=True)
def leftovers(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[None]:
    """Assert after the whole run that no process, descriptor or temporary file is left.

    Processes and descriptors get 5 s, because the last test's processes may still be ending. Only
    processes of this run are ended; see `own_processes()`.
    """
    directory = tmp_path_factory.mktemp("tmpdir")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(directory))
    patch.setattr(tempfile, "tempdir", None)
    before = own_processes() + processes.mitogen_processes()
    descriptors = open_descriptors()
    yield
    problems: list[str] = []
    # A descriptor that only a reference cycle keeps open is closed here, before the check.
    gc.collect()
    try:
        processes.wait_until(lambda: not left_over(before))
    except AssertionError:
        left = left_over(before)
        problems += ["process " + str(each) for each in left]
        processes.end_processes([each for each in left if each.state != "Z"])
    pytestconfig.stash[STRANGERS] = strangers(before)
    try:
        processes.wait_until(lambda: not open_descriptors() - descriptors, timeout=1)
    except AssertionError:
        more = open_descriptors() - descriptors
        problems += ["descriptor {} (x{})".format(name, count) for name, count in more.items()]
    problems += ["file " + str(path) for path in sorted(directory.rglob("*"))]
    patch.undo()
    shutil.rmtree(str(directory), ignore_errors=True)
    assert not problems, "left behind by this run:\n  " + "\n  ".join(problems)


@pytest.fixture(scope="session")
def hosts_directory() -> Iterator[pathlib.Path]:
    """Yield a directory that the test accounts can read."""
    directory = hosts.make_directory()
    yield directory
    shutil.rmtree(str(directory))


@pytest.fixture(scope="session")
def sshd_keys(hosts_directory: pathlib.Path) -> hosts.Keys:
    return hosts.Keys(hosts_directory)


@pytest.fixture(scope="session")
def sshd_with(
    hosts_directory: pathlib.Path, sshd_keys: hosts.Keys
) -> Iterator[Callable[..., hosts.Sshd]]:
    """Return a function that starts an sshd with extra lines in its configuration.

    An example: `sshd_with("Banner /etc/issue", ...)`. A second call with the same lines returns the
    same sshd.
    """
    if not hosts.program("sshd"):
        pytest.skip("needs openssh-server (`sshd` is not installed)")
    started: dict[tuple[str, ...], hosts.Sshd] = {}

    def sshd_with(*extra: str) -> hosts.Sshd:
        if extra not in started:
            directory = hosts_directory / "sshd{}".format(len(started))
            started[extra] = hosts.Sshd(directory, sshd_keys, extra).start()
        return started[extra]

    yield sshd_with
    left = [session for each in started.values() for session in each.stop()]
    assert not left, "sessions that outlived the tests: " + "; ".join(map(str, left))


@pytest.fixture(scope="session")
def sshd(sshd_with: Callable[..., hosts.Sshd]) -> hosts.Sshd:
    """Return an sshd on 127.0.0.1 that accepts the test key for every account; see `hosts.Sshd`."""
    return sshd_with()


@pytest.fixture(scope="session")
def users(hosts_directory: pathlib.Path) -> Iterator[hosts.Accounts]:
    """Yield the test accounts: `users.plain.name`, `users.pw.password`, ...; see `hosts.KINDS`."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes accounts")
    with hosts.Accounts(hosts_directory) as accounts:
        yield accounts
        new = accounts.new_files()
    assert not new, "left in test accounts' homes: " + ", ".join(new)


@pytest.fixture(scope="session")
def pythons() -> dict[tuple[int, int], str]:
    """Return {(3, 6): path, ...}; use `hosts.find_pythons()` to parametrize."""
    return hosts.find_pythons()


@pytest.fixture(scope="session")
def python36(pythons: dict[tuple[int, int], str]) -> Any:
    """Return the path of a Python 3.6, the oldest version supported on a target."""
    if (3, 6) not in pythons:
        pytest.skip("needs a Python 3.6 (pyenv or PATH)")
    return pythons[3, 6]
