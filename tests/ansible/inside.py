"""Inspection of a run's processes from outside, on the controller and the host.

Rules: everything is read from /proc. A process belongs to a run if its environment, or that of an
ancestor, contains the run's directory; sudo removes that, but passes on the mark of the test run.
"""

import os
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Optional

from tests import processes
from tests.ansible import bed

__all__ = [
    "KINDS",
    "kind_of",
    "left_over",
    "of_run",
    "parts",
    "payloads",
    "remove_of_core",
    "snapshot",
]

#: Kinds of processes of a run.
KINDS = ("playbook", "worker", "broker", "ssh", "context", "zygote", "module")

BROKER = "mitogen.ansible.broker.server"
ZYGOTE = "mitogen.zygote"


#: Leftovers of a module or worker ended by SIGKILL; only ansible-core leaves them.
OF_CORE = re.compile(r"/ansible_[\w.]+_payload_\w+(/|\Z)|/ansible-tmp-[\d.-]+(/|\Z)|/\.ansible_tmp")


def payloads() -> set[str]:
    """Return the directories in /tmp that modules run from, of any account."""
    return {str(path) for path in pathlib.Path("/tmp").glob("ansible_*_payload_*")}


def remove_of_core(here: bed.Bed, before: Optional[set[str]] = None) -> list[str]:
    """Remove leftovers that plain Ansible would leave on the host too; return the others.

    :param before: `payloads()` from before the run, if nothing else is running: root's are
        removed too.
    """
    found = []
    for path in payloads() - before if before is not None else ():
        shutil.rmtree(path, ignore_errors=True)
    for path in here.left():
        if OF_CORE.search(path):
            shutil.rmtree(path, ignore_errors=True)
            pathlib.Path(path).unlink(missing_ok=True)
        else:
            found.append(path)
    return found


def snapshot() -> set[tuple[int, int]]:
    """Return (pid, start) of each process with the mark of this test run."""
    return {(each.pid, each.start) for each in processes.marked_processes(str(os.getpid()))}


def of_run(running: bed.Running) -> list[processes.Process]:
    """Return the processes of a run, without zombies."""
    table = processes.processes()
    mark = str(running.directory)
    found = {
        each.pid: each
        for each in table.values()
        if any(mark in value for value in processes.environment(each.pid).values())
    }
    for each in list(found.values()):
        found.update({below.pid: below for below in processes.process_tree(each.pid)})
    return [each for each in found.values() if each.state not in "ZX"]


def kind_of(each: processes.Process, table: dict[int, processes.Process], main: int) -> str:
    """Return the member of KINDS that a process of a run belongs to; '' if none.

    :param table: the processes of the run, by pid.
    :param main: the pid of ansible-playbook.
    """
    above = table.get(each.ppid)
    if each.pid == main:
        return "playbook"
    if BROKER in each.cmdline:
        return "broker"
    if each.comm == "ssh":
        return "ssh"
    if ZYGOTE in each.cmdline:
        # A process that it forks has its command line.
        return "module" if above and ZYGOTE in above.cmdline else "zygote"
    if each.cmdline.startswith("mitogen:") or each.comm.startswith("mitogen:"):
        return "context"
    if each.ppid == main and "ansible-playbook" in each.cmdline:
        return "worker"
    return ""


def parts(running: bed.Running) -> dict[str, list[processes.Process]]:
    """Return the processes of a run by kind."""
    found: dict[str, list[processes.Process]] = {kind: [] for kind in KINDS}
    table = {each.pid: each for each in of_run(running)}
    for each in table.values():
        kind = kind_of(each, table, running.child.pid)
        if kind:
            found[kind].append(each)
    return found


def left_over(before: set[tuple[int, int]], but: Iterable[str] = ()) -> list[processes.Process]:
    """Return the running processes that were started since *before*.

    :param before: a `snapshot()`.
    :param but: regular expressions for command lines of processes that may continue.
    """
    return [
        each
        for each in processes.marked_processes(str(os.getpid()))
        if (each.pid, each.start) not in before
        and each.state not in "ZX"
        and not any(re.search(pattern, each.cmdline) for pattern in but)
    ]
