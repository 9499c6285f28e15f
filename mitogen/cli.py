"""
The command line: `python3 -m mitogen COMMAND`, or `mitogen COMMAND` where it is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mitogen import core, identity, master, utils
from mitogen.core.late import LATE, fetch
from mitogen.tree import specs

__all__ = ["main"]

LATE.update(demo="demo.tree", raw_tty="terminal.raw_tty")


def _demo(_args: argparse.Namespace) -> int:
    return int(fetch("demo").run())


def _shell(args: argparse.Namespace) -> int:
    """Connect and run shell(); errors are told as ssh(1) does, with its status."""
    utils.log_to_file(level="WARNING")
    try:
        with master.Router() as router:
            context = _connect(router, args.spec)
            return _run_shell(context, args)
    except (core.Error, OSError, ValueError, TypeError) as e:
        print(f"mitogen shell: {e}", file=sys.stderr)
        return _STATUSES.get(type(e), 255)


#: As a shell has them.
_STATUSES: dict[type[BaseException], int] = {FileNotFoundError: 127, PermissionError: 126}


def _connect(router: Any, texts: Sequence[str]) -> Any:
    """Connect as the specs say, each via the one before; return the last context."""
    context = None
    for method, options in [hop for text in texts for hop in specs.parse(text)]:
        if method == "ssh":
            # Suspended (~^Z) this program answers nobody. ssh(1) has none by default either.
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
            print("mitogen shell: standard input is no terminal; -tt forces one", file=sys.stderr)
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
is run by the login shell, 'ls | wc -l'; one of several as it is, without a shell. The exit
status is the command's, 128 and the number of the signal that ended it, or 255 for an error.
"""


def _add_shell(commands: Any) -> None:
    shell = commands.add_parser(
        "shell",
        help="log in to a context, or run a command there, with this terminal",
        usage=_SHELL_USAGE,
        epilog=_SHELL_HELP,
    )
    shell.add_argument("-q", dest="quiet", action="store_true", help="don't say how it ended")
    ttys = shell.add_mutually_exclusive_group()
    ttys.add_argument(
        "-t",
        dest="tty",
        action="count",
        default=0,
        help="give a command a terminal, if there is one here; -tt: in any case",
    )
    ttys.add_argument("-T", dest="no_tty", action="store_true", help="give it no terminal")
    escape_help = "escape character, ^ and one for a control character, or none (default: ~)"
    shell.add_argument(
        "-e", dest="escape", metavar="CHAR", type=_escape, default="~", help=escape_help
    )
    shell.add_argument("spec", metavar="SPEC", nargs="+", help="context, by a text")
    shell.set_defaults(func=_shell, takes_command=True)


def _parser() -> argparse.ArgumentParser:
    version = ".".join(map(str, identity.VERSION))
    parser = argparse.ArgumentParser(
        prog="mitogen", description="Run Python on other machines, with nothing installed there."
    )
    parser.add_argument("--version", action="version", version=f"mitogen {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo", help="start a small tree of contexts on this machine, draw it, and end it"
    )
    demo.set_defaults(func=_demo)
    _add_shell(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command that `argv` names; return its exit status.

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
    # As for ssh, nothing is the login shell.
    args.command = command or None
    try:
        status: int = args.func(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return status
