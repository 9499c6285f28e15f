"""
Runs small programs on the peer and on this checkout, and prints the differences.

    python -m bench.side_by_side [--peer DIR] [NAME ...]

The programs are in side_by_side.txt. The first is the whole program, of which each other one is the
body of a function. The output of both runs is compared, without addresses and numbers of more than
two digits. A line `#: REASON` after a program's name allows a difference and is its reason. The
exit status is 1 if there is a difference without a reason, or a reason without a difference.

Rules: both libraries run in processes of their own, in a scratch directory, at most JOBS at once.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap
from typing import NamedTuple

from bench.hosts import PEERS, ROOT

__all__ = ["PROGRAMS", "WHOLE", "Program", "programs"]

FILE = pathlib.Path(__file__).with_suffix(".txt")
JOBS = os.cpu_count() or 1
#: Seconds for one program.
LIMIT = 40


class Program(NamedTuple):
    """A program: its name, its lines, and why its output may differ, if it may."""

    name: str
    body: str
    reason: str | None

    def source(self) -> str:
        """Return the whole program."""
        return WHOLE.body.replace("{body}", textwrap.indent(self.body, "    "))


def programs(text: str) -> list[Program]:
    """Return the programs in a text of the form of side_by_side.txt."""
    found = []
    for block in re.split(r"^== ", text, flags=re.M)[1:]:
        name, _, body = block.partition("\n")
        reason = re.match(r"#: (.*)\n", body)
        found.append(Program(name, body[reason.end() if reason else 0 :], reason and reason[1]))
    return found


WHOLE, *PROGRAMS = programs(FILE.read_text(encoding="utf-8"))


def outcome(program: Program, library: str, directory: str) -> str:
    """Return a program's output with one of the libraries, its last error line included."""
    path = os.path.join(directory, re.sub(r"\W+", "_", program.name) + ".py")
    with open(path, "w", encoding="utf-8") as fp:
        fp.write(program.source())
    environ = dict(os.environ, PYTHONPATH=library)
    command = [sys.executable, path]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, env=environ, cwd=directory
        )
    except subprocess.TimeoutExpired:
        return f"not ended after {LIMIT} seconds"
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    text = done.stdout + (
        f"exit status {done.returncode}: {errors[-1:]}" if done.returncode else ""
    )
    text = re.sub(r"0x[0-9a-f]+", "0x", text)
    return re.sub(r"\b[0-9a-f]*\d{3,}\b", "N", text)


def compare(chosen: list[Program], peer: str) -> int:
    """Print the differences; return the number of those that are wrong."""
    wrong = same = 0
    with (
        tempfile.TemporaryDirectory() as directory,
        concurrent.futures.ThreadPoolExecutor(JOBS) as pool,
    ):
        places = [tempfile.mkdtemp(dir=directory) for _ in range(2)]
        runs = [
            [pool.submit(outcome, each, *pair) for pair in zip((peer, str(ROOT)), places)]
            for each in chosen
        ]
        for program, jobs in zip(chosen, runs):
            theirs, ours = (job.result() for job in jobs)
            same += theirs == ours
            if (theirs == ours) == (program.reason is None):
                continue
            wrong += 1
            print("==", program.name, "(has a reason, but is the same)" if program.reason else "")
            for name, text in (("peer", theirs), ("ours", ours)):
                print(textwrap.indent(text.rstrip() or "nothing", f"  {name}: ", lambda _: True))
    print(f"{len(chosen)} programs: {same} same, {len(chosen) - same} differ, {wrong} wrong")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--peer", help="directory with the peer; installed if it is not given")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of programs' names")
    args = parser.parse_args()
    chosen = [
        each for each in PROGRAMS if not args.names or any(n in each.name for n in args.names)
    ]
    with tempfile.TemporaryDirectory() as directory:
        if not args.peer:
            command = [sys.executable, "-m", "pip", "install", "-q", "--target", directory]
            subprocess.run([*command, PEERS["peer"]], check=True)
        return 1 if compare(chosen, args.peer or directory) else 0


if __name__ == "__main__":
    sys.exit(main())
