"""`bench/run`: run each group's subjects in alternation, print the table, write the JSON.

Rules: one subject process at a time, each new; it writes its numbers to a file. Its environment has
the mark of tests/processes.py, so that its remaining processes are found and ended, by pid. A
subject that failed in a group is not tried again in it. On an interrupt everything is ended too.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

from bench import hosts, report, table
from tests import processes

__all__ = ["main"]

ROUNDS = 5
SUBJECT_FILES = {
    "ours": "subject_mitogen.py",
    "peer": "subject_mitogen.py",
    "execnet": "subject_execnet.py",
}
QUICK_TIMEOUT = 20.0  # seconds for one process with --quick
LINGER = 2.0  # seconds for a subject's processes to end after it


class Options(argparse.Namespace):
    names: list
    rounds: int
    json: str
    quick: bool
    list: bool
    scratch: str
    python: str
    subjects: str


def parse(argv):
    parser = argparse.ArgumentParser(prog="bench/run", description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help="rows or groups: prefixes of names (--list)")
    parser.add_argument("--rounds", type=int, help="runs of each subject, {}".format(ROUNDS))
    parser.add_argument("--json", metavar="FILE", help="write all samples to this file")
    parser.add_argument("--quick", action="store_true", help="one round of small counts, ~100 s")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument(
        "--scratch", metavar="DIR", help="directory for the peers' environments, kept"
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter of all subjects")
    parser.add_argument("--subjects", default=",".join(table.SUBJECTS), help="ours,peer,execnet")
    options = parser.parse_args(argv, Options())
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    unknown = set(options.subjects.split(",")) - set(table.SUBJECTS)
    if unknown:
        parser.error("unknown subject: " + ", ".join(sorted(unknown)))
    return parser, options


def file_of(group, subject):
    """Return the file with a group's function, for a subject."""
    return group.file or SUBJECT_FILES[subject]


class Suite:
    """One run of the benchmarks.

    :param ready: the Hosts, entered.
    """

    def __init__(self, ready, options):
        self.hosts = ready
        self.options = options
        self.subjects = options.subjects.split(",")
        self.samples = {}
        self.cpus = os.sched_getaffinity(0)
        self.libraries, self.missing = {}, {}
        for subject in self.subjects:
            try:
                self.libraries[subject] = ready.library(subject)
            except Exception as error:
                self.missing[subject] = "not installed: {}".format(error)

    def run(self, rows):
        """Run the groups of *rows*, in the table's order."""
        for group, pin in dict.fromkeys((row.group, row.pin) for row in rows):
            start = time.monotonic()
            results = self.samples[group, pin] = {}
            self.run_group(table.GROUPS[group], pin, results)
            say("{}@{} took {:.1f} s".format(group, pin, time.monotonic() - start))

    def run_group(self, group, pin, results):
        """Run one group: A B C, A B C, ..."""
        subjects = [name for name in self.subjects if name in group.subjects]
        missing = [need for need in group.needs if need in self.hosts.failed]
        for name in subjects:
            results[name] = report.Result()
            if missing:
                results[name].error = "; ".join(self.hosts.failed[need] for need in missing)
            elif name in self.missing:
                results[name].error = self.missing[name]
        cpus = {max(self.cpus)} if pin == table.PINNED else self.cpus
        self.hosts.pin_sshd(cpus)
        try:
            for _ in range(min(self.options.rounds, group.rounds)):
                for name in subjects:
                    if results[name].error is None:
                        self.run_subject(group, name, cpus, results[name])
        finally:
            self.hosts.pin_sshd(self.cpus)

    def run_subject(self, group, name, cpus, result):
        """Run one subject once; put its numbers or its error into *result*."""
        with tempfile.TemporaryDirectory(dir=self.hosts.scratch) as directory:
            task = pathlib.Path(directory, "task")
            answer = pathlib.Path(directory, "answer")
            text = self.task(group, name, str(answer))
            task.write_text(json.dumps(text))
            output = run_process(
                [self.hosts.python, str(hosts.ROOT / "bench" / file_of(group, name)), str(task)],
                cpus,
                min(group.timeout, QUICK_TIMEOUT) if self.options.quick else group.timeout,
            )
            left = end_leftovers(self.hosts)
            if left:
                result.notes.append("left behind: " + "; ".join(left))
            if not answer.exists():
                result.error = output
                return
            given = json.loads(answer.read_text())
        result.notes += given["notes"]
        if given["error"]:
            result.error = given["error"]
        else:
            result.samples.append(given["numbers"])

    def task(self, group, name, answer):
        """Return the data for probe.Task."""
        return {
            "library": self.libraries[name],
            "function": group.function,
            "params": group.params(self.options.quick),
            "setting": self.hosts.setting,
            "answer": answer,
        }


def run_process(argv, cpus, timeout):
    """Run *argv* on *cpus* for at most *timeout* seconds; return the end of its output."""
    with tempfile.TemporaryFile() as output:
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus)  # inherited by the child: a preexec_fn is avoided
        try:
            process = subprocess.Popen(
                argv,
                env=hosts.clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, mine)
        try:
            process.wait(timeout)
            verdict = "ended with {}".format(process.returncode)
        except subprocess.TimeoutExpired:
            verdict = "no end in {:g} s".format(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own session, never ours
                process.wait(10)
        output.seek(0)
        printed = output.read().decode(errors="replace").strip().splitlines()[-3:]
        return " | ".join([verdict, *printed])


def end_leftovers(ready):
    """Wait for a subject's processes; end the remaining ones and report them."""
    run = os.environ[processes.RUN_VARIABLE]
    ours = {ready.sshd.pid} if ready.sshd else set()

    def left():
        return [each for each in processes.marked_processes(run) if each.pid not in ours]

    with contextlib.suppress(AssertionError):
        processes.wait_until(lambda: not left(), LINGER)
    found = left()
    processes.end_processes(found)
    return [str(each)[:100] for each in found]


def say(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def read_first(path, start):
    """Return the value of the first line of a /proc file with the given prefix."""
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(start):
            return line.partition(":")[2].strip()
    return ""


def git(*args):
    """Return the output of a git command in the checkout, '' if it fails."""
    argv = ["git", "-C", str(hosts.ROOT), *args]
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


def describe(options, python):
    """Return the JSON's data besides the numbers."""
    version = subprocess.run(
        [python, "-VV"], capture_output=True, text=True, env=hosts.clean_environment(), timeout=20
    )
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "options": vars(options),
        "machine": {
            "system": platform.platform(),
            "processor": read_first("/proc/cpuinfo", "model name"),
            "cpus": len(os.sched_getaffinity(0)),
            "memory": read_first("/proc/meminfo", "MemTotal"),
            "load": os.getloadavg(),
        },
        "python": {"path": python, "version": version.stdout.strip()},
        "versions": {
            "ours": {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--short")},
            **hosts.PEERS,
        },
    }


@contextlib.contextmanager
def scratch_directory(wanted):
    """Yield *wanted*, made if necessary, or a temporary directory that is removed."""
    if wanted:
        path = pathlib.Path(wanted).resolve()
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mitogen-bench-") as directory:
        yield pathlib.Path(directory)


def list_rows(rows):
    """Print the rows' names, bounds and meanings."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        print("{:{}}  {:8} {}".format(row.name, width, str(row.bound or ""), row.what))


def interrupt(*_):
    raise KeyboardInterrupt


def main(argv=None):
    """Run the command line; return 0, 1 if a subject failed, 130 if interrupted."""
    parser, options = parse(argv)
    try:
        rows = table.select(options.names)
    except KeyError as error:
        parser.error("no row begins with {}; see --list".format(error))
    if options.list:
        list_rows(rows)
        return 0
    signal.signal(signal.SIGTERM, interrupt)  # so that the sshd is ended
    os.environ[processes.RUN_VARIABLE] = str(os.getpid())
    python = hosts.find_python(options.python)
    about = describe(options, python)
    if about["machine"]["load"][0] > 0.5:
        say("load is {:.1f}; wait until the machine is quiet".format(about["machine"]["load"][0]))
    start, status = time.monotonic(), 0
    with scratch_directory(options.scratch) as scratch, hosts.Hosts(scratch, python) as ready:
        suite = Suite(ready, options)
        try:
            suite.run(rows)
        except KeyboardInterrupt:
            status = 130
            say("interrupted; the results so far:")
            end_leftovers(ready)
    about["seconds"] = time.monotonic() - start
    found = report.lines(rows, suite.samples)
    print(report.format_table(found))
    for (group, pin), results in suite.samples.items():
        for name, result in results.items():
            for note in dict.fromkeys(result.notes):
                print("note {}@{}, {}: {}".format(group, pin, name, note))
    if options.json:
        pathlib.Path(options.json).write_text(
            json.dumps(report.as_json(found, suite.samples, about), indent=1) + "\n"
        )
    return status or int(any(line.errors for line in found))
