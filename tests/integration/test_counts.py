"""Countable costs have no noise: writes and thread switches of a call, round trips of a start."""

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests import hosts
from tests.checkout import ROOT
from tests.integration.far import work
from tests.integration.test_imports import files, program, tree_of  # noqa: F401

HERE = pathlib.Path(__file__).resolve().parent
CALLS = 100
WRITES = "write,writev,pwrite64,sendto,sendmsg"
DELAY = 80.0  # milliseconds; a pause of that length separates two flights
ATTEMPTS = 5


class Driver:
    """The process that runs drivers/calls.py."""

    def __init__(self, master):
        self.master = master
        self.pids = json.loads(master.stdout.readline())

    def calls(self, count):
        """Make it run *count* calls; return its thread switches."""
        self.master.stdin.write("{}\n".format(count))
        self.master.stdin.flush()
        return json.loads(self.master.stdout.readline())


@pytest.fixture
def driver():
    with subprocess.Popen(
        [sys.executable, str(HERE / "drivers" / "calls.py")],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as master:
        yield Driver(master)
        master.stdin.close()
        assert master.wait(20) == 0


def trace(pids, path):
    """Start strace on *pids*; return it once it is attached, or skip."""
    if not hosts.program("strace"):
        pytest.skip("needs strace")
    command = ["strace", "-f", "-e", "trace=" + WRITES, "-o", str(path)]
    for pid in pids:
        command += ["-p", str(pid)]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    output = ""
    for line in strace.stderr:
        output += line
        if output.count(" attached") == len(pids):
            return strace
    strace.wait()
    strace.stderr.close()
    pytest.skip("strace can't attach here: " + output.strip())


def test_a_call_is_two_writes(driver, tmp_path):
    path = tmp_path / "strace"
    strace = trace(driver.pids, path)
    driver.calls(CALLS)
    strace.terminate()
    strace.stderr.read()
    strace.wait()
    strace.stderr.close()
    lines = path.read_text().splitlines()
    # A call interrupted by another thread's output takes two lines; the first has the descriptor.
    writes = [line for line in lines if re.search(r" (writev?|send\w+|pwrite64)\((\d+),", line)]
    ours = [line for line in writes if not re.search(r"\((1|2),", line)]
    assert len(ours) == 2 * CALLS, "\n".join(ours[:12])


def test_a_call_is_two_thread_switches(driver):
    """A call wakes broker and waiter, in parent and child: each of the four threads sleeps once.

    Everything is pinned to one CPU, where only one thread runs at a time.
    """
    driver.calls(CALLS)
    assert driver.calls(CALLS) <= 4 * CALLS + CALLS // 2


class Line(NamedTuple):
    """A connection through the delaying proxy, and its file of counts."""

    path: pathlib.Path

    def options(self):
        return hosts.delay_proxy_args(DELAY, str(self.path))

    def flights(self):
        """Return the number of round trips so far."""
        return json.loads(self.path.read_text())["up_flights"]


@pytest.fixture(scope="module")
def bare(sshd, tmp_path_factory):
    """Return the round trips of `ssh host true`."""
    line = Line(tmp_path_factory.mktemp("bare") / "count")
    command = sshd.command(sshd.kwargs()["username"], "true", options=line.options())
    subprocess.run(command, check=True, timeout=30)
    return line.flights()


@pytest.fixture
def fewest(sshd, own_router, tmp_path):
    """
    Return `fewest(wanted, use)`: the fewest round trips of several slow connections.

    `use(context, line)` returns the round trips of one. A busy machine delays writes and so adds
    round trips by chance, therefore up to ATTEMPTS connections are made until one is as `wanted`.
    """

    def fewest(wanted, use):
        counts = []
        for number in range(ATTEMPTS):
            line = Line(tmp_path / str(number))
            context = own_router.ssh(**sshd.kwargs(ssh_args=sshd.ssh_args + line.options()))
            counts.append(use(context, line))
            if counts[-1] <= wanted:
                break
        return min(counts)

    return fewest


@pytest.fixture
def top(program):  # noqa: F811
    """Return the top of a tree of thirty modules, all loaded here."""
    files(program.directory, tree_of(30))
    program.load("tree.late")
    return program.load("tree.top")


@pytest.mark.ssh
@pytest.mark.slow
class TestRoundTrips:
    """Round trips over a slow line. A flight is sent up without waiting for data from below."""

    def test_connect_and_first_call_take_one_round_trip(self, bare, fewest):
        def use(context, line):
            context.call(work.noop)
            return line.flights()

        assert fewest(bare + 1, use) <= bare + 1

    def test_connect_and_first_call_with_thirty_modules_take_one_round_trip(
        self, bare, fewest, top
    ):
        def use(context, line):
            assert context.call(top.total) == 1000 + sum(range(26))
            return line.flights()

        assert fewest(bare + 1, use) <= bare + 1

    def test_a_call_with_new_modules_takes_one_round_trip(self, fewest, top):
        def use(context, line):
            context.call(work.noop)
            counts = []
            for function in (work.noop, top.total):
                before = line.flights()
                context.call(function)
                counts.append(line.flights() - before)
            return max(counts)

        assert fewest(1, use) == 1
