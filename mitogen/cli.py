"""
The command line: `python3 -m mitogen COMMAND`, or `mitogen COMMAND` if it is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mitogen import core, identity, master, utils
from mitogen.core.lazy import LAZY, fetch
from mitogen.tree import specs

__all__ = ["main"]

LAZY.update(demo="demo.tree", raw_tty="terminal.raw_tty")


def _demo(_args: argparse.Namespace) -> int:
    return int(fetch("demo").run())


def _shell(args: argparse.Namespace) -> int:
    """Connect and run shell(); report errors like ssh(1), with its exit status."""
    utils.log_to_file(level="WARNING")
    try:
        with master.Router() as router:
            context = _connect(router, args.spec)
            return _run_shell(context, args)
    except (core.Error, OSError, ValueError, TypeError) as e:
        print(f"mitogen shell: {e}", file=sys.stderr)
        return _STATUSES.get(type(e), 255)


#: Exit statuses for these errors, as in a shell.
_STATUSES: dict[type[BaseException], int] = {FileNotFoundError: 127, PermissionError: 126}


def _connect(router: Any, texts: Sequence[str]) -> Any:
    """Connect to each spec via the context of the one before; return the last context."""
    context = None
    for method, options in [hop for text in texts for hop in specs.parse(text)]:
        if method == "ssh":
            # While suspended (~^Z) this program answers no keepalives. ssh(1) sends none by
            # default.
            options.setdefault("keepalive_enabled", False)
        context = router.connect(method, via=context, **options)
    return context


def _run_shell(context: Any, args: argparse.Namespace) -> int:
    command = args.command
    if command and len(command) == 1:
        command = command[0]
    tty = None
    if args.no_tty:
        tty = False
    elif args.tty:
        tty = args.tty > 1 or os.isatty(0)
        if not tty:
            message = "mitogen shell: standard input is not a terminal; use -tt to force one"
            print(message, file=sys.stderr)
    shell = fetch("terminal").shell
    return int(shell(context, command, tty=tty, escape=args.escape, quiet=args.quiet))


def _escape(text: str) -> str:
    try:
        fetch("raw_tty").escape_char(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    return text


_SHELL_USAGE = "mitogen shell [-h] [-q] [-t | -T] [-e CHAR] SPEC... [-- COMMAND...]"
_SHELL_HELP = """
A spec names a context: ssh:user@host, sudo:root, docker:web, or several hops at once,
ssh:user@host/sudo; of several specs each is reached via the one before. A command of one word
is run by the login shell, 'ls | wc -l'; a command of several words is run without a shell. The
exit status is the command's, 128 plus the number of a signal that terminated it, or 255 for an
error.
"""


def _add_shell(commands: Any) -> None:
    shell = commands.add_parser(
        "shell",
        help="log in to a context, or run a command there, with this terminal",
        usage=_SHELL_USAGE,
        epilog=_SHELL_HELP,
    )
    shell.add_argument("-q", dest="quiet", action="store_true", help="don't report how it ended")
    ttys = shell.add_mutually_exclusive_group()
    ttys.add_argument(
        "-t",
        dest="tty",
        action="count",
        default=0,
        help="give a command a terminal, if standard input is one; -tt: in any case",
    )
    ttys.add_argument("-T", dest="no_tty", action="store_true", help="give a command no terminal")
    escape_help = "escape character, ^ and a letter for a control character, or none (default: ~)"
    shell.add_argument(
        "-e", dest="escape", metavar="CHAR", type=_escape, default="~", help=escape_help
    )
    shell.add_argument("spec", metavar="SPEC", nargs="+", help="name of a context")
    shell.set_defaults(func=_shell, takes_command=True)


def _parser() -> argparse.ArgumentParser:
    version = ".".join(map(str, identity.VERSION))
    parser = argparse.ArgumentParser(
        prog="mitogen", description="Run Python on other machines, with nothing installed there."
    )
    parser.add_argument("--version", action="version", version=f"mitogen {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo", help="start a small tree of contexts on this machine, draw it, and shut it down"
    )
    demo.set_defaults(func=_demo)
    _add_shell(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command in `argv` and return its exit status.

    :param argv: arguments; None for the process's own
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = None
    if "--" in words:
        at = words.index("--")
        words, command = words[:at], words[at + 1 :]
    parser = _parser()
    args = parser.parse_args(words)
    if command is not None and not getattr(args, "takes_command", False):
        parser.error("unrecognized arguments: " + " ".join(["--", *command]))
    # As with ssh, no command means the login shell.
    args.command = command or None
    try:
        status: int = args.func(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return status
