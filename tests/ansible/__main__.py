"""Command line to run playbooks by hand; see README.rst in this directory.

python -m tests.ansible run [--release 2.21] [--way plain] [--keep DIRECTORY] PLAYBOOK [ARGUMENT...]
python -m tests.ansible compare [--release 2.21] [--way plain] [--against plain] [PLAYBOOK...]
python -m tests.ansible integration [--release 2.21] [--way WAY]... [--write FILE] [TARGET...]
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent import futures

from tests import hosts, processes
from tests.ansible import bed, environments, integration, ways


@contextlib.contextmanager
def made() -> Iterator[bed.Bed]:
    """Yield a bed and remove it afterwards; print the runs' leftovers on the host."""
    os.environ[processes.RUN_VARIABLE] = str(os.getpid())
    directory = hosts.make_directory()
    try:
        sshd = hosts.Sshd(directory / "sshd", hosts.Keys(directory), bed.SSHD_LINES).start()
        try:
            with hosts.Accounts(directory) as users:
                here = bed.Bed(directory, sshd, users, hosts.find_pythons())
                try:
                    yield here
                finally:
                    for path in here.close() + users.new_files():
                        print("left behind: " + path)
        finally:
            with contextlib.suppress(AssertionError):  # processes may end soon by themselves
                processes.wait_until(lambda: not marked())
            for each in sshd.stop() + marked():
                print("left behind: process {}".format(each))
    finally:
        shutil.rmtree(str(directory), ignore_errors=True)


def marked() -> list[processes.Process]:
    """Return the remaining processes of our runs, without sshd."""
    found = processes.marked_processes(str(os.getpid()))
    return [each for each in found if not each.comm.startswith("sshd")]


def find(name: str) -> bed.Playbook:
    """Return the playbook *name*: a path, or the name of one in the bed."""
    path = pathlib.Path(name)
    if not path.exists():
        path = bed.PLAYBOOKS / (path.stem + ".yml")
    if not path.exists():
        sys.exit("no playbook {}, neither here nor in {}".format(name, bed.PLAYBOOKS))
    return bed.read_playbook(path)


def keep(outcome: bed.Outcome, target: str) -> None:
    """Copy a run's files, for inspection."""
    os.makedirs(target, exist_ok=True)
    for name in ("results.jsonl", "output", "ansible.cfg", "inventory.json"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(str(outcome.directory / name), target)


def run(options: argparse.Namespace) -> int:
    with made() as here:
        playbook = find(options.playbook)
        outcome = here.run(options.release, options.way, playbook, options.arguments)
        if options.keep:
            keep(outcome, options.keep)
        print(outcome.output, end="")
    text = "{}: status {}, {:.2f} s, controller's CPU {:.2f} s"
    print(text.format(playbook.name, outcome.status, outcome.wall, outcome.cpu))
    return outcome.status


def compared(here: bed.Bed, options: argparse.Namespace, playbook: bed.Playbook) -> bool:
    outcomes = [here.run(options.release, w, playbook) for w in (options.against, options.way)]
    problems = [outcome.wrong() for outcome in outcomes if outcome.wrong()]
    problems += bed.differences(outcomes[0], outcomes[1], options.way)
    times = ", ".join("{:.2f} s".format(outcome.wall) for outcome in outcomes)
    lines = ["{}: {} ({})".format(playbook.name, "differs" if problems else "equal", times)]
    print("\n    ".join(lines + problems), flush=True)
    return not problems


def compare_all(options: argparse.Namespace) -> int:
    with made() as here, futures.ThreadPoolExecutor(options.jobs) as pool:
        environments.ready(options.release)
        found = [find(name) for name in options.playbooks] or bed.playbooks()
        found = [each for each in found if options.release in each.releases]
        same = list(pool.map(lambda each: compared(here, options, each), found))
    return 0 if all(same) else 1


def integrate(options: argparse.Namespace) -> int:
    """Run ansible-core's own targets; failures count only where plain Ansible succeeds."""
    names = ["plain", *(options.way or ways.OURS)]
    found, bad = [], 0
    with made() as here, integration.authorized_keys():
        for target in options.targets or integration.TARGETS:
            results = [integration.run(here, options.release, way, target) for way in names]
            found += results
            for each in results:
                text = "{} {}: {}".format(target, each.way, integration.cell(each))
                print(text, flush=True)
                if each.status != 0:
                    print("    " + each.reason(), flush=True)
                    bad += results[0].status == 0
                    if options.keep:
                        name = "{}-{}".format(target, each.way)
                        pathlib.Path(options.keep, name).write_text(each.output)
    text = integration.table(found)
    print(text, end="")
    if options.write:
        pathlib.Path(options.write).write_text(text, encoding="utf-8")
    return 1 if bad else 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ansible")
    commands = parser.add_subparsers(required=True)
    for name, function in (("run", run), ("compare", compare_all)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--release", default="2.21", choices=environments.ALL)
        command.add_argument("--way", default="plain", choices=list(ways.WAYS))
        if name == "run":
            command.add_argument("--keep", help="copy results.jsonl, output, ... to this directory")
            command.add_argument("playbook", help="a path, or a name below playbooks/")
            command.add_argument("arguments", nargs=argparse.REMAINDER)
        else:
            command.add_argument("--against", default="plain", choices=list(ways.WAYS))
            command.add_argument("--jobs", type=int, default=3, help="number of concurrent runs")
            command.add_argument("playbooks", nargs="*", help="default: all")
    command = commands.add_parser("integration")
    command.set_defaults(function=integrate)
    command.add_argument("--release", default="2.21", choices=environments.ALL)
    command.add_argument("--way", action="append", choices=ways.OURS, help="default: all")
    command.add_argument("--write", help="write the table to this file, in reST")
    command.add_argument("--keep", help="write the output of failed runs to this directory")
    command.add_argument("targets", nargs="*", help=" ".join(integration.TARGETS))
    options = parser.parse_args(arguments)
    # It ends as by ^C. Otherwise accounts, files and processes would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(options.function(options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
