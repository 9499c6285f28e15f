"""Looking at processes from outside, for tests: trees, leftovers, waiting.

Rules: nothing here is imported by the library; everything is read from /proc (Linux), so that
what is asserted is what the kernel says and not what the code under test believes.

Every process of a test run carries `MITOGEN_TEST_RUN=<pid of pytest>` in its environment: our
sshd, sudo and doas are configured to pass it on. So an orphan is found whatever its name and
whoever its parent, and another run on the same machine is not mistaken for ours.
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
    """What /proc says of one process; `start` (clock ticks since boot) tells reused pids apart."""

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
    """Return the process *pid*, or None where there is none."""
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
    """Return whether *pid* runs. A zombie does not: it only waits to be reaped."""
    found = process(pid)
    return found is not None and found.state not in "ZX"


def environment(pid: int) -> dict[str, str]:
    """Return the environment *pid* was started with; empty if it is gone or not ours to read."""
    try:
        data = pathlib.Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition("=") for item in data.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name}


def marked_processes(run: str) -> list[Process]:
    """Return the processes other than this one that carry the mark of the run *run*."""
    mine = os.getpid()
    return [
        each
        for each in processes().values()
        if each.pid != mine and environment(each.pid).get(RUN_VARIABLE) == run
    ]


def commands(cmdline: str) -> list[Process]:
    """Return the processes with this run's mark that run the command *cmdline*, without zombies."""
    return [
        each
        for each in marked_processes(os.environ[RUN_VARIABLE])
        if each.cmdline == cmdline and each.state not in "ZX"
    ]


def mitogen_processes() -> list[Process]:
    """Return the processes named `mitogen:...`, of any run and user: to report, never to end.

    Without zombies: some init processes take seconds to reap what they adopted.
    """
    return [
        each
        for each in processes().values()
        if (each.comm.startswith("mitogen:") or each.cmdline.startswith("mitogen:"))
        and each.state not in "ZX"
    ]


def wait_until(predicate: Callable[[], T], timeout: float = 5.0, what: str = "") -> T:
    """Call *predicate* until it returns something true, and return that.

    It polls, waiting 1 ms at first and at most 50 ms. That is for what gives no descriptor and no
    callback to wait on: another user's process ending, a file another program writes. For anything
    of ours (a reply, a thread, our own child) wait on the thing itself.

    :param timeout: seconds from the call; then AssertionError.
    :param what: what was waited for, for that error.
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

    A pid that meanwhile belongs to another process (a different start time) is left alone.
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
