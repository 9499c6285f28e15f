"""
Profiles of the master and of every context: cProfile's figures of the thread that runs calls, sent
to the master as a message when the context ends. Nothing is written on targets.

    python3 -m mitogen.profiler stat PROGRAM ARGUMENTS        run it, print the figures
    python3 -m mitogen.profiler record -o DIR PROGRAM ...     run it, keep the figures
    python3 -m mitogen.profiler report DIR                    print figures kept

A program enables it with `router.profiling = True` before it connects, its user with
MITOGEN_PROFILING in the environment: 1, or the directory for the figures.

Rules
    1. Figures are sent as ordinary values, and checked before they are written: the format of
       pstats is marshal, which must not be read from untrusted sources.
    2. A context that is killed sends nothing.

Threads: start_here() on the thread that runs calls; a Collector has a thread of its own.
"""

from __future__ import annotations

import os
import sys

from mitogen import core
from mitogen.core.mailbox import Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Collector", "collect", "directory", "follow", "main", "report", "start_here"]

#: Directory of profiles if MITOGEN_PROFILING names none.
DEFAULT_DIRECTORY = "mitogen.profile"
#: Maximum number of rows in a report.
ROWS = 40
#: Seconds to wait at exit for the last profile to be written.
WRITE_TIMEOUT = 10.0


# -- in a context


def _figures(profile: Any) -> dict[Any, Any]:
    profile.create_stats()
    found: dict[Any, Any] = profile.stats
    return found


@core.takes_econtext
def start_here(sender: core.Sender, econtext: Any = None) -> None:
    """
    In a child: profile the main thread from now on; send the figures when the context ends.

    :param sender: sender to the Collector
    """
    import cProfile

    if getattr(econtext, "profiling", None):
        return
    profile = econtext.profiling = cProfile.Profile()
    flush = econtext.flush

    def send() -> None:
        profile.disable()
        sender.send([econtext.context.name, _figures(profile)])
        flush()

    econtext.flush = send
    profile.enable()


# -- in the master


def directory() -> str | None:
    """Return the directory for profiles; None if MITOGEN_PROFILING does not enable profiling."""
    value = os.environ.get("MITOGEN_PROFILING", "")
    if value in ("", "0"):
        return None
    return value if value != "1" else DEFAULT_DIRECTORY


def _checked(figures: Any) -> dict[Any, Any]:
    """Return figures converted to pstats' types; raise TypeError or ValueError if malformed."""

    def place(key: Any) -> Any:
        path, line, name = key
        return "%s" % (path,), int(line), "%s" % (name,)

    def numbers(row: Any) -> Any:
        calls, primitive, total, cumulative = row
        return int(calls), int(primitive), float(total), float(cumulative)

    return {
        place(key): numbers(row[:4])
        + ({place(caller): numbers(values) for caller, values in row[4].items()},)
        for key, row in figures.items()
    }


class Collector:
    """
    Receives the profiles of a router's contexts, and writes a file for each. It also profiles the
    thread that creates it.

    :param router: the master's router
    """

    def __init__(self, router: Any) -> None:
        import atexit
        import cProfile
        import threading

        path = directory() or DEFAULT_DIRECTORY
        os.makedirs(path, 0o700, exist_ok=True)
        self.path = path
        self._broker = router.broker
        # No window: many contexts may send at the end, when no thread reads.
        self._receiver = Receiver(router, window=None)
        self._profile: Any | None = cProfile.Profile()
        self._thread = threading.Thread(target=self._run, name="mitogen-profiler", daemon=True)
        self._thread.start()
        atexit.register(self.finish)
        try:
            self._profile.enable()
        except ValueError:
            # The program is already being profiled (3.12 and later).
            self._profile = None

    def attach(self, context: Any) -> None:
        """Profile a context from now on. (This waits for it, as it may be shut down at once.)"""
        context.call(start_here, self._receiver.to_sender())

    def _run(self) -> None:
        for msg in self._receiver:
            try:
                name, figures = msg.unpickle()
                self._save_file("%s-%d" % (name, msg.src_id), _checked(figures))
            except Exception as e:
                sys.stderr.write("mitogen.profiler: context %d: no profile: %s\n" % (msg.src_id, e))

    def _save_file(self, name: str, figures: dict[Any, Any]) -> None:
        import marshal

        safe = "".join(c if c.isalnum() or c in "-_.@" else "_" for c in name).lstrip(".")
        path = os.path.join(self.path, safe + ".pstats")
        try:
            # The figures of an earlier run, or a link placed there by another account.
            os.unlink(path)
        except FileNotFoundError:
            pass
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as fp:
            marshal.dump(figures, fp)

    def finish(self) -> None:
        """Creator's thread: shut down the broker, and write the remaining figures. Idempotent."""
        import atexit

        atexit.unregister(self.finish)
        profile, self._profile = self._profile, None
        if profile:
            profile.disable()
            self._save_file("master-%d" % os.getpid(), _figures(profile))
        self._broker.shutdown()
        self._broker.join()
        self._thread.join(WRITE_TIMEOUT)


def collect(router: Any, context: Any) -> None:
    """
    Profile a context; the figures go to directory(), or DEFAULT_DIRECTORY.

    :param router: the master's router
    :param context: a new context of the router
    """
    router.component(Collector).attach(context)


def follow(router: Any, attempt: Any) -> None:
    """
    Profile the context that a pending connection attempt will return.

    :param router: the master's router
    :param attempt: result of `Router.connecting()`
    """
    wait = attempt.wait

    def wait_and_collect(*args: Any, **kwargs: Any) -> Any:
        context = wait(*args, **kwargs)
        collect(router, context)
        return context

    attempt.wait = wait_and_collect


# -- the command line


def _files(paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.endswith(".pstats"))
            found += [os.path.join(path, name) for name in names]
        else:
            found.append(path)
    if not found:
        raise SystemExit("mitogen.profiler: no profiles in %s" % ", ".join(paths))
    return found


def report(paths: list[str], sort: str = "tottime", each: bool = False) -> None:
    """
    Print the figures of files or directories.

    :param paths: files and directories
    :param sort: sort key of pstats
    :param each: print one table per file instead of one for all
    """
    import pstats

    files = _files(paths)
    for group in [[path] for path in files] if each else [files]:
        print("%s:" % ", ".join(os.path.basename(path) for path in group))
        stats = pstats.Stats(*group)
        stats.sort_stats(sort).print_stats(ROWS)


def _run(path: str, argv: list[str]) -> int:
    """Run a Python program with profiling enabled; return its exit status."""
    import subprocess

    if os.path.isdir(path):
        for old in os.listdir(path):
            if old.endswith(".pstats"):
                os.unlink(os.path.join(path, old))
    environ = dict(os.environ, MITOGEN_PROFILING=os.path.abspath(path))
    status = subprocess.call([sys.executable] + argv, env=environ)
    return status if status >= 0 else 128 - status


def _parser() -> Any:
    import argparse

    parser = argparse.ArgumentParser(
        prog="mitogen.profiler", description="Show where a program's contexts spend their time."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True
    record = commands.add_parser("record", help="run a Python program, keep the figures")
    report = commands.add_parser("report", help="print figures kept")
    stat = commands.add_parser("stat", help="run a Python program, print the figures")
    record.add_argument("-o", "--output", default=DEFAULT_DIRECTORY, help="directory for figures")
    report.add_argument("paths", nargs="*", default=[DEFAULT_DIRECTORY], help="directories, files")
    for each in (report, stat):
        each.add_argument("-s", "--sort", default="tottime", help="as pstats.Stats.sort_stats()")
        each.add_argument("-e", "--each", action="store_true", help="a table for each context")
    for each in (record, stat):
        each.add_argument("program", help="path of the program")
        each.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's arguments")
    return parser


def main(argv: list[str] | None = None) -> int:
    """
    Run the command line; return its exit status.

    :param argv: arguments; None for the process's own
    """
    import tempfile

    args = _parser().parse_args(argv)
    if args.command == "report":
        report(args.paths, args.sort, args.each)
        return 0
    program = [args.program] + args.arguments
    if args.command == "record":
        return _run(args.output, program)
    with tempfile.TemporaryDirectory() as path:
        status = _run(path, program)
        report([path], args.sort, args.each)
    return status


if __name__ == "__main__":
    # Imported again under the name by which contexts know it.
    from mitogen import profiler

    sys.exit(profiler.main())
