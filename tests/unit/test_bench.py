"""bench/: the table is complete, the arithmetic right, the JSON as documented. Nothing is timed."""

import ast
import json
import pathlib
import re
from typing import Any

import pytest

from bench import hosts, report, side_by_side, suite, table
from tests.checkout import ROOT

BENCH = ROOT / "bench"


def functions_of(name: str) -> dict[str, set[str]]:
    """Return {function: names of its parameters} of a file, from its source."""
    tree = ast.parse((BENCH / name).read_text())
    return {
        node.name: {arg.arg for arg in node.args.args}
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def result(*values: float, error: str = "", key: str = "us") -> report.Result:
    made = report.Result()
    made.samples = [{key: value} for value in values]
    made.error = error or None
    return made


def row(bound: object = None) -> table.Row:
    return table.Row("call_local", "1cpu", "us", "us", "a call", bound)


# ---- the table


def test_row_names_are_unique() -> None:
    assert len({each.name for each in table.ROWS}) == len(table.ROWS)


@pytest.mark.parametrize("each", table.ROWS, ids=lambda each: each.name)
def test_row_belongs_to_a_group(each: table.Row) -> None:
    assert each.pin in table.GROUPS[each.group].pins
    assert each.what and each.key


def test_each_group_has_a_row_for_each_pin() -> None:
    used = {(each.group, each.pin) for each in table.ROWS}
    assert used == {(name, pin) for name, group in table.GROUPS.items() for pin in group.pins}


@pytest.mark.parametrize("group", table.GROUPS.values(), ids=lambda each: each.name)
def test_subjects_have_the_function_and_its_parameters(group: table.Group) -> None:
    for subject in group.subjects:
        parameters = functions_of(suite.file_of(group, subject))[group.function]
        assert parameters == {"setting", *group.full}
    assert set(group.quick) <= set(group.full)
    assert "ours" in group.subjects


@pytest.mark.parametrize("group", table.GROUPS.values(), ids=lambda each: each.name)
def test_keys_occur_in_the_driver(group: table.Group) -> None:
    names = [suite.file_of(group, "ours"), "probe.py"]
    source = "".join((BENCH / name).read_text() for name in names)
    for each in table.ROWS:
        if each.group == group.name:
            key = each.key.replace("raw_", "").replace("_flights", "").replace("_elapsed", "")
            # One for each depth: "ratio_{depth}".
            key = re.sub(r"(?<=_)[0-9]$", "{depth}", key)
            assert '"{}"'.format(key) in source, each.name


def test_table_has_the_required_bounds() -> None:
    bounds = {each.name: str(each.bound) for each in table.ROWS if each.bound}
    assert bounds["call_local.us@1cpu"] == "<= 0.35x"
    assert bounds["outstanding_8.rate@1cpu"] == ">= 3x"
    assert bounds["bytes.preamble@free"] == "<= 12288"
    assert len(bounds) >= 45


def test_select_by_prefix() -> None:
    assert table.select([]) == table.ROWS
    assert {each.group for each in table.select(["connect_50"])} == {"connect_50", "connect_50_16"}
    with pytest.raises(KeyError, match="nothing"):
        table.select(["call_local", "nothing"])


def test_quick_replaces_full() -> None:
    group = table.Group("g", "f", full={"count": 100, "where": "local"}, quick={"count": 1})
    assert group.params(False) == {"count": 100, "where": "local"}
    assert group.params(True) == {"count": 1, "where": "local"}


# ---- arithmetic


def test_median_is_over_rounds() -> None:
    assert result(5, 1, 3).median("us") == 3
    assert result(1, 2).median("us") == 1.5
    assert result(1).median("other") is None
    assert result().median("us") is None


def test_ratio() -> None:
    assert report.ratio(1, 4) == 0.25
    assert report.ratio(0, 4) == 0
    assert report.ratio(None, 4) is report.ratio(1, None) is report.ratio(1, 0) is None


@pytest.mark.parametrize(
    ("bound", "ours", "peer", "verdict"),
    [
        (table.at_most(0.5), 50, 100, "ok"),
        (table.at_most(0.5), 51, 100, "over"),
        (table.at_least(3), 300, 100, "ok"),
        (table.at_least(3), 299, 100, "over"),
        (table.ours(15), 15, 1, "ok"),
        (table.ours(15), 15.1, 100, "over"),
        (None, 1, 1, "-"),
    ],
)
def test_verdict(bound: object, ours: float, peer: float, verdict: str) -> None:
    line = report.line(row(bound), {"ours": result(ours), "peer": result(peer)})
    assert line.verdict == verdict
    assert line.ratio == ours / peer


def test_failed_subject_is_an_error_without_verdict() -> None:
    results = {"ours": result(1), "peer": result(error="it broke")}
    assert report.line(row(table.at_most(0.5)), results).verdict == "error"
    # A bound on our value alone is judged even when a peer failed.
    assert report.line(row(table.ours(2)), results).verdict == "ok"


def test_number_format() -> None:
    texts = [report.format_number(value) for value in (None, 0.345, 12.34, 123.4, 12345.6, -0.5)]
    assert texts == ["-", "0.34", "12.3", "123", "12,346", "-0.50"]


def test_slope_leaves_out_the_part_independent_of_the_delay(monkeypatch: object) -> None:
    monkeypatch.syspath_prepend(str(BENCH))  # as suite.py does for a subject
    import probe

    assert probe.slope({0.05: [9.0, 0.35], 0.25: [0.95, 1.5]}) == pytest.approx(3)


# ---- table and JSON


@pytest.fixture
def samples() -> dict[tuple[str, str], dict[str, report.Result]]:
    return {
        ("call_local", "1cpu"): {
            "ours": result(30, 10, 20),
            "peer": result(100),
            "execnet": result(error="no such thing"),
        }
    }


def test_table_has_a_line_per_row_and_each_error_once(samples: dict) -> None:
    lines = report.lines([row(table.at_most(0.35)), row(), *table.ROWS[-1:]], samples)
    text = report.format_table(lines).splitlines()
    assert text[0].split()[:5] == ["row", "cpus", "unit", "ours", "peer"]
    assert text[2].split() == "a call 1cpu us 20.0 100 ERROR 0.20 <= 0.35x ok".split()
    assert text[3].split() == "a call 1cpu us 20.0 100 ERROR 0.20 error".split()
    assert text[4:] == ["", "ERROR call_local@1cpu, execnet: no such thing"]


def test_json_form(samples: dict) -> None:
    lines = report.lines([row(table.at_most(0.35))], samples)
    form = json.loads(json.dumps(report.as_json(lines, samples, {"date": "today"})))
    assert form["date"] == "today"
    assert form["rows"] == [
        {
            "name": "call_local.us@1cpu",
            "what": "a call",
            "unit": "us",
            "medians": {"ours": 20, "peer": 100, "execnet": None},
            "ratio": 0.2,
            "bound": {"of": "ratio", "sign": "<=", "limit": 0.35},
            "verdict": "ok",
        }
    ]
    (group,) = form["groups"]
    assert (group["group"], group["pin"]) == ("call_local", "1cpu")
    assert group["subjects"]["ours"]["samples"] == [{"us": 30}, {"us": 10}, {"us": 20}]
    assert group["subjects"]["execnet"]["error"] == "no such thing"


# ---- environment of the subjects


def test_no_python_variable_reaches_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("OTHER", "1")
    environment = hosts.clean_environment()
    assert not [name for name in environment if name.startswith("PYTHON")]
    assert environment["OTHER"] == "1"


def test_trees_have_thirty_modules_and_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = hosts.make_trees(tmp_path)
    assert abs(size - hosts.TREE_BYTES) < hosts.TREE_BYTES * 0.1
    monkeypatch.syspath_prepend(str(tmp_path))
    import tree_inside.job
    import tree_top.job

    assert not hasattr(tree_inside, "part18")  # imported only by a call
    assert hasattr(tree_top, "part27")
    assert tree_top.job.run() == sum(range(28))
    assert tree_inside.job.run() == sum(range(18))
    for name in ("tree_inside", "tree_top"):
        assert len(list((tmp_path / name).glob("*.py"))) == hosts.TREE_MODULES
    assert hasattr(tree_inside, "part27")


def test_a_missing_requirement_is_an_error_of_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ready:
        failed = {"sshd": "openssh-server is not installed"}

        def library(self, subject: str) -> str:
            return "/nowhere"

        def pin_sshd(self, cpus: object) -> None:
            pass

    _, options = suite.parse(["call_ssh", "--rounds", "1"])
    made = suite.Suite(Ready(), options)
    made.run(table.select(["call_ssh"]))
    for results in made.samples.values():
        assert {each.error for each in results.values()} == {"openssh-server is not installed"}


def test_list_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--list", "bulk"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("bulk.down@1cpu")


# ---- side_by_side.py


@pytest.mark.parametrize("program", side_by_side.PROGRAMS, ids=lambda each: each.name)
def test_side_by_side_programs_compile(program: side_by_side.Program) -> None:
    compile(program.source(), program.name, "exec")
    assert program.body.strip() and program.reason != ""


def test_side_by_side_reports_a_difference(monkeypatch: Any, capsys: Any) -> None:
    outputs = {"same": "1", "explained": "2", "wrong": "3", "stale": "4"}

    def outcome(program: side_by_side.Program, library: str, directory: str) -> str:
        differs = library == "peer" and program.name in ("explained", "wrong")
        return outputs[program.name] + ("x" if differs else "")

    monkeypatch.setattr(side_by_side, "outcome", outcome)
    chosen = side_by_side.programs(
        "== same\na\n\n== explained\n#: why\na\n\n== wrong\na\n\n== stale\n#: why\na\n"
    )
    assert side_by_side.compare(chosen, "peer") == 2
    output = capsys.readouterr().out
    assert "== wrong" in output and "peer: 3x" in output and "ours: 3" in output
    assert "== stale (has a reason, but is the same)" in output and "== same" not in output
