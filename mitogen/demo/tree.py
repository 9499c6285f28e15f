"""
Build the demonstration's tree, collect facts from each context, and draw the tree.

Controlling machine only.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any, TextIO

import mitogen.master
from mitogen.demo import facts

__all__ = ["run"]

#: The tree: names of contexts, each mapped to its children.
SHAPE: dict[str, Any] = {"a": {"a1": {"a11": {}}, "a2": {}}, "b": {"b1": {"b11": {}}}}
#: Number of calls timed per context; the median is shown.
CALLS = 50


def run(out: TextIO = sys.stdout) -> int:
    """
    Build the tree, draw it on `out`, shut it down, and return an exit status.

    :param out: a text file
    """
    started = time.perf_counter()
    with mitogen.master.Router() as router:
        out.write(_line("this program", facts.collect(), None))
        count = _grow(router, None, SHAPE, "", out)
        seconds = time.perf_counter() - started
        out.write(
            f"{count} contexts, {_depth(SHAPE)} deep, started and called in {seconds:.2f} s.\n"
        )
    out.write("All of them are gone again.\n")
    return 0


def _grow(router: Any, via: Any, shape: dict[str, Any], indent: str, out: TextIO) -> int:
    """Start the contexts in `shape` below `via`, recursively, and return their number."""
    count = 0
    for position, (name, below) in enumerate(shape.items()):
        last = position == len(shape) - 1
        context = router.local(name=name, via=via)
        seen = context.call(facts.collect)
        out.write(indent + ("`-- " if last else "|-- ") + _line(name, seen, _time(context)))
        deeper = indent + ("    " if last else "|   ")
        count += 1 + _grow(router, context, below, deeper, out)
    return count


def _time(context: Any) -> float:
    """Return the median time of a call, in seconds."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        context.call(facts.collect)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _line(name: str, seen: dict[str, Any], seconds: float | None) -> str:
    call = "" if seconds is None else f", {seconds * 1e6:.0f} us per call"
    return f"{name}: pid {seen['pid']}, {seen['user']}, Python {seen['python']}{call}\n"


def _depth(shape: dict[str, Any]) -> int:
    return 1 + max((_depth(below) for below in shape.values() if below), default=0)
