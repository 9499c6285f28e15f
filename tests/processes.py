"""Tools to observe processes from outside: trees, leftovers, waiting.

Rules: the library never imports this file; all data is read from /proc (Linux), so assertions rest
on the kernel's view and not on the code under test.

Every process of a test run has `MITOGEN_TEST_RUN=<pid of pytest>` in its environment: our sshd,
sudo and doas are configured to pass it on. So an orphan is found whatever its name and parent, and
processes of another run on the same machine are not mistaken for ours.
"""

import os
import pathlib
import select
import time
from typing import Callable, NamedTuple, Optional, TypeVar

__all__ = [
    "RUN_VARIABLE",
    "Process",
    "alive",
    "children",
    "commands",
    "end_processes",
    "marked_processes",
    "mitogen_processes",
    "process_tree",
    "processes",
    "wait_until",
]

RUN_VARIABLE = "MITOGEN_TEST_RUN"
T = TypeVar("T")


class Process(NamedTuple):
    """An entry of /proc; `start` (clock ticks since boot) distinguishes reused pids."""

    pid: int
    ppid: int
    state: str
    comm: str
    cmdline: str
    start: int
    uid: int

    def __str__(self) -> str:
        return "{} (parent {}, {}, uid {}): {}".format(
            self.pid, self.ppid, self.state, self.uid, self.cmdline or "[" + self.comm + "]"
        )


def process(pid: int) -> Optional[Process]:
    """Return the process *pid*, or None if it does not exist."""
    directory = pathlib.Path("/proc", str(pid))
    try:
        stat = (directory / "stat").read_text(errors="replace")
        cmdline = (directory / "cmdline").read_bytes()
        uid = directory.stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None
    comm, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    text = cmdline.replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(pid, int(fields[1]), fields[0], comm, text, int(fields[19]), uid)


def processes() -> dict[int, Process]:
    """Return every process of the machine, by pid (zombies too)."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {each.pid: each for each in found if each is not None}


def process_tree(pid: int) -> list[Process]:
    """Return the descendants of *pid*, zombies too, parents before children, without itself."""
    table = processes()
    below: dict[int, list[Process]] = {}
    for each in table.values():
        below.setdefault(each.ppid, []).append(each)
    found, queue = [], [pid]
    while queue:
        for child in below.get(queue.pop(0), []):
            found.append(child)
            queue.append(child.pid)
    return found


def children() -> list[Process]:
    """Return the descendants of this process."""
    return process_tree(os.getpid())


def alive(pid: int) -> bool:
    """Return whether *pid* is running. A zombie is not: it only waits to be reaped."""
    found = process(pid)
    return found is not None and found.state not in "ZX"


def environment(pid: int) -> dict[str, str]:
    """Return the environment *pid* was started with; empty if it is gone or unreadable."""
    try:
        data = pathlib.Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in data.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name}


def marked_processes(run: str) -> list[Process]:
    """Return the processes, other than this one, that carry the mark of the run *run*."""
    mine = os.getpid()
    return [
        each
        for each in processes().values()
        if each.pid != mine and environment(each.pid).get(RUN_VARIABLE) == run
    ]


def commands(cmdline: str) -> list[Process]:
    """Return this run's processes that run the command *cmdline*, without zombies."""
    return [
        each
        for each in marked_processes(os.environ[RUN_VARIABLE])
        if each.cmdline == cmdline and each.state not in "ZX"
    ]


def mitogen_processes() -> list[Process]:
    """Return the processes named `mitogen:...`, of any run and user, for reports; they are never
    ended.

    Zombies are left out: some init processes take seconds to reap adopted ones.
    """
    return [
        each
        for each in processes().values()
        if (each.comm.startswith("mitogen:") or each.cmdline.startswith("mitogen:"))
        and each.state not in "ZX"
    ]


def wait_until(predicate: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Call *predicate* until its result is true, and return the result.

    It polls, at first after 1 ms and at most every 50 ms. Use it only where there is no descriptor
    or callback to wait on: another user's process ending, a file written by another program. For
    our own replies, threads and children, wait on the object itself.

    :param timeout: seconds from the call; then AssertionError.
    :param what: description of the awaited event, for that error.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        result = predicate()
        if result:
            return result
        left = deadline - time.monotonic()
        if left <= 0:
            raise AssertionError("not within {:g} s: {}".format(timeout, what or predicate))
        select.select([], [], [], min(pause, left))
        pause = min(pause * 2, 0.05)


def end_processes(targets: list[Process], grace: float = 2.0) -> None:
    """End *targets*, each by its pid: SIGTERM, then SIGKILL after *grace* seconds.

    A pid that now belongs to another process (with a different start time) is left alone.
    """
    for signal_number in (15, 9):
        for target in targets:
            now = process(target.pid)
            if now is not None and now.start == target.start:
                try:
                    os.kill(target.pid, signal_number)
                except ProcessLookupError:
                    pass
        try:
            wait_until(lambda: not any(alive(each.pid) for each in targets), grace)
            return
        except AssertionError:
            continue
