"""Medians, ratios, table and JSON from samples. Pure: no clock, no process, no file.

*samples*: {(group, pin): {subject: Result}}; see `Result`.
"""

import statistics
from typing import Any, NamedTuple, Optional

from bench import table

__all__ = ["Line", "Result", "as_json", "format_number", "format_table", "lines", "ratio"]

Key = tuple[str, str]  # (group, pin)


class Result:
    """The results of one subject in one group, by round: a dict of numbers each, or an error."""

    def __init__(self) -> None:
        self.samples: list[dict[str, float]] = []
        self.error: Optional[str] = None
        self.notes: list[str] = []

    def median(self, key: str) -> Optional[float]:
        """Return the median of a key over the rounds, None if no round has it."""
        values = [sample[key] for sample in self.samples if sample.get(key) is not None]
        return statistics.median(values) if values else None


def ratio(ours: Optional[float], peer: Optional[float]) -> Optional[float]:
    """Return ours / peer, None if a number is missing."""
    return ours / peer if ours is not None and peer else None


class Line(NamedTuple):
    """A row with its numbers. *verdict*: "ok", "over", "error", "-" (not measured, or no bound)."""

    row: table.Row
    medians: dict[str, Optional[float]]
    ratio: Optional[float]
    verdict: str
    errors: dict[str, str]


def line(row: table.Row, results: dict[str, Result]) -> Line:
    """Return the Line of one row."""
    medians = {name: result.median(row.key) for name, result in results.items()}
    errors = {name: result.error for name, result in results.items() if result.error}
    share = ratio(medians.get("ours"), medians.get("peer"))
    met = row.bound.met(medians.get("ours"), share) if row.bound else None
    verdict = {True: "ok", False: "over", None: "-"}[met]
    if met is None and errors:
        verdict = "error"
    return Line(row, medians, share, verdict, errors)


def lines(rows: list[table.Row], samples: dict[Key, dict[str, Result]]) -> list[Line]:
    """Return a Line for each row whose group has been run."""
    return [
        line(row, samples[row.group, row.pin]) for row in rows if (row.group, row.pin) in samples
    ]


def format_number(value: Optional[float]) -> str:
    """Return three significant digits, without an exponent; "-" for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return "{:,.0f}".format(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return "{:.{}f}".format(value, digits)


HEADINGS = ("row", "cpus", "unit", "ours", "peer", "execnet", "ratio", "bound", "")


def cells(line: Line) -> tuple[str, ...]:
    """Return the texts of one line of the table."""
    numbers = [
        "ERROR" if name in line.errors else format_number(line.medians.get(name))
        for name in table.SUBJECTS
    ]
    return (
        line.row.what,
        line.row.pin,
        line.row.unit,
        *numbers,
        format_number(line.ratio),
        str(line.row.bound or ""),
        line.verdict,
    )


def format_table(found: list[Line]) -> str:
    """Return the table as text, with the errors and notes below it."""
    body = [HEADINGS] + [cells(each) for each in found]
    widths = [max(len(row[column]) for row in body) for column in range(len(HEADINGS))]
    left = {0, 1, 2, 8}
    texts = []
    for row in body:
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        texts.append("  ".join(padded).rstrip())
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(texts + errors(found))


def errors(found: list[Line]) -> list[str]:
    """Return a line for each group and subject that failed."""
    seen = {
        (each.row.group, each.row.pin, name): error
        for each in found
        for name, error in each.errors.items()
    }
    texts = [
        "ERROR {}@{}, {}: {}".format(group, pin, name, error)
        for (group, pin, name), error in seen.items()
    ]
    return [""] + texts if texts else []


def as_json(
    found: list[Line], samples: dict[Key, dict[str, Result]], about: dict[str, Any]
) -> dict[str, Any]:
    """Return all measurements as data for JSON.

    :param about: description of the run: machine, versions, options.
    """
    return {
        **about,
        "rows": [
            {
                "name": each.row.name,
                "what": each.row.what,
                "unit": each.row.unit,
                "medians": each.medians,
                "ratio": each.ratio,
                "bound": each.row.bound._asdict() if each.row.bound else None,
                "verdict": each.verdict,
            }
            for each in found
        ],
        "groups": [
            {
                "group": group,
                "pin": pin,
                "subjects": {
                    name: {
                        "samples": result.samples,
                        "error": result.error,
                        "notes": result.notes,
                    }
                    for name, result in results.items()
                },
            }
            for (group, pin), results in samples.items()
        ],
    }
