"""profiler.py: the master gets figures of every context."""

import os
import pstats
import subprocess
import sys

import pytest

from mitogen import master, profiler
from tests import processes
from tests.checkout import ROOT
from tests.unit import api_probe

PROGRAM = """
import sys
import mitogen
import mitogen.utils

def spend():
    return sum(i * i for i in range(20000))

@mitogen.main()
def main(router):
    one = router.local(name="one")
    two = router.local(name="a/b", via=one)
    for context in one, two:
        context.call(spend)
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def run(*argv, cwd, **environ):
    keep = processes.RUN_VARIABLE
    env = {k: v for k, v in os.environ.items() if not k.startswith("MITOGEN_") or k == keep}
    env.update(environ, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        capture_output=True,
        text=True,
        cwd=str(cwd),
        env=env,
        timeout=60,
    )


def functions(path):
    return {name for _, _, name in pstats.Stats(str(path)).stats}


def test_record_keeps_profiles_and_report_prints_them(tmp_path, program):
    kept = tmp_path / "kept"
    for _ in range(2):  # the second run replaces the figures of the first
        done = run("-m", "mitogen.profiler", "record", "-o", kept, program, "3", cwd=tmp_path)
        assert done.returncode == 3, done.stderr
    names = sorted(path.name for path in kept.iterdir())
    assert len(names) == 3 and names[1].startswith("master-") and names[2].startswith("one-")
    assert "/" not in names[0] and names[0].endswith(".pstats")
    for path in kept.iterdir():
        assert ("spend" in functions(path)) == (not path.name.startswith("master-"))
    done = run("-m", "mitogen.profiler", "report", kept, cwd=tmp_path)
    assert "(<genexpr>)" in done.stdout and done.returncode == 0
    done = run("-m", "mitogen.profiler", "report", "--each", "-s", "cumulative", kept, cwd=tmp_path)
    assert done.stdout.count("function calls") == 3


def test_stat_keeps_nothing(tmp_path, program):
    done = run("-m", "mitogen.profiler", "stat", program, "0", cwd=tmp_path)
    assert done.returncode == 0 and "(<genexpr>)" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


@pytest.mark.parametrize("value, kept", [("1", "mitogen.profile"), ("here", "here"), ("0", None)])
def test_an_environment_variable_enables_profiling(tmp_path, program, value, kept):
    done = run(program, "0", cwd=tmp_path, MITOGEN_PROFILING=value)
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert found == ([kept] if kept else [])


def test_main_takes_profiling(tmp_path, program):
    program.write_text(PROGRAM.replace("mitogen.main()", "mitogen.main(profiling=True)"))
    assert run(program, "0", cwd=tmp_path).returncode == 0
    assert len(os.listdir(str(tmp_path / "mitogen.profile"))) == 3


@pytest.mark.parametrize(
    "argv, text",
    [
        (["record"], "program"),
        ([], "COMMAND"),
        (["nonsense"], "choice"),
        (["report", "."], "no profiles in"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, argv, text):
    done = run("-m", "mitogen.profiler", *argv, cwd=tmp_path)
    assert done.returncode != 0 and text in done.stderr


def test_record_exits_with_the_signal_of_a_killed_program(tmp_path):
    (tmp_path / "dies.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    done = run("-m", "mitogen.profiler", "record", "-o", "kept", "dies.py", cwd=tmp_path)
    assert done.returncode == 128 + 9


# ---- within one process


def test_a_router_profiles_each_context_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MITOGEN_PROFILING", str(tmp_path))
    with master.Router() as router:
        assert router.profiling
        child = router.local(name="child")
        profiler.collect(router, child)  # a second time: no harm
        child.call(sorted, [3, 1])
    router.component(profiler.Collector).finish()
    router.component(profiler.Collector).finish()
    assert sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir()) == [
        "child",
        "master",
    ]


def test_contexts_of_connect_many_are_profiled(tmp_path, monkeypatch):
    monkeypatch.setenv("MITOGEN_PROFILING", str(tmp_path))
    with master.Router() as router:
        specs = [("local", {"name": "one"}), ("local", {"name": "two"})]
        assert len(list(router.connect_many(specs))) == 2
    router.component(profiler.Collector).finish()
    names = {path.name.rpartition("-")[0] for path in tmp_path.iterdir()}
    assert names == {"master", "one", "two"}


def test_a_single_context_can_be_profiled(tmp_path, monkeypatch):
    monkeypatch.delenv("MITOGEN_PROFILING", raising=False)
    monkeypatch.chdir(tmp_path)
    with master.Router() as router:
        router.local(name="quiet").call(int)
        router.local(name="seen", profiling=True).call(int)
    router.component(profiler.Collector).finish()
    names = os.listdir(str(tmp_path / profiler.DEFAULT_DIRECTORY))
    assert sorted(name.rpartition("-")[0] for name in names) == ["master", "seen"]


def test_a_hostile_child_writes_nothing_but_figures(tmp_path, capsys, monkeypatch):
    inside = tmp_path / "in" / "side"
    monkeypatch.setattr(profiler, "directory", lambda: str(inside))
    with master.Router() as router:
        collector = profiler.Collector(router)
        child = router.local()
        child.call(api_probe.say_nonsense, collector._receiver.to_sender())
    collector.finish()
    assert capsys.readouterr().err.count("no profile") == 5
    assert [path.name for path in tmp_path.rglob("*.pstats") if "good" in path.name] == [
        "_.._good-%d.pstats" % child.context_id
    ]
    assert {path.parent for path in tmp_path.rglob("*.pstats")} == {inside}


def test_a_link_under_the_name_of_a_file_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "name.pstats").symlink_to(victim)
    collector = profiler.Collector.__new__(profiler.Collector)
    collector.path = str(tmp_path)
    collector._save_file("name", {})
    assert victim.read_text() == "kept" and not (tmp_path / "name.pstats").is_symlink()
    assert (tmp_path / "name.pstats").stat().st_mode & 0o777 == 0o600
