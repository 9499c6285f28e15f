"""
The command line: `python3 -m mitogen COMMAND`, or `mitogen COMMAND` where it is installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import mitogen

__all__ = ["main"]


def _demo(_args: argparse.Namespace) -> int:
    from mitogen.demo import tree

    return tree.run()


def _parser() -> argparse.ArgumentParser:
    version = ".".join(map(str, mitogen.__version__))
    parser = argparse.ArgumentParser(
        prog="mitogen", description="Run Python on other machines, with nothing installed there."
    )
    parser.add_argument("--version", action="version", version=f"mitogen {version}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo", help="start a small tree of contexts on this machine, draw it, and end it"
    )
    demo.set_defaults(func=_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command that `argv` names; return its exit status.

    :param argv: arguments; None for the process's own
    """
    args = _parser().parse_args(argv)
    try:
        status: int = args.func(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return status
