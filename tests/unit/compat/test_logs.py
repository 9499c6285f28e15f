"""logs.py: loggers and handlers that mitogen.core had in old releases."""

import getpass
import logging
import os
import subprocess
import sys

import pytest

from mitogen import core
from tests.checkout import ROOT


def record(text="text", name="some.logger"):
    return logging.LogRecord(name, logging.WARNING, "file.py", 7, text, (), None, "func")


def test_loggers():
    assert core.LOG is logging.getLogger("mitogen") and core.IOLOG.name == "mitogen.io"
    assert core.LOGGERS == [core.LOG, core.IOLOG]


def test_a_log_handler_sends_once_it_is_uncorked(net):
    root, one = net.line(2)
    inbox = []
    root.router.add_handler(inbox.append, core.FORWARD_LOG, overwrite=True)
    handler = core.LogHandler(core.Context(one.router, 0))
    handler.emit(record("early"))
    net.pump()
    assert inbox == []
    handler.uncork()
    handler.emit(record("late"))
    handler.emit(record("of mitogen's own reads and writes", "mitogen.io"))
    net.pump()
    got = [core.decode(msg.data) for msg in inbox]
    assert [fields[2] for fields in got] == ["early", "late"]
    assert got[0] == ["some.logger", logging.WARNING, "early", "file.py", 7, "func"]


def test_a_record_that_cannot_be_formatted_is_reported(net, capsys):
    _, one = net.line(2)
    handler = core.LogHandler(core.Context(one.router, 0))
    bad = record("%d")
    bad.args = ("no number",)
    handler.emit(bad)
    assert "Logging error" in capsys.readouterr().err


@pytest.fixture
def pidful(tmp_path, monkeypatch):
    monkeypatch.setattr(core.PidfulStreamHandler, "template", str(tmp_path / "%s.%s.log"))
    handler = core.PidfulStreamHandler()
    yield handler, tmp_path
    handler.close()


def lines(path):
    return {int(p.name.split(".")[-2]): p.read_text() for p in path.iterdir()}


def test_each_process_has_a_file(pidful):
    handler, path = pidful
    handler.emit(record("one"))
    pid = os.fork()
    if not pid:
        handler.emit(record("two"))
        handler.close()
        os._exit(0)
    os.waitpid(pid, 0)
    handler.emit(record("three"))
    assert lines(path) == {os.getpid(): "one\nthree\n", pid: "two\n"}
    assert all(p.stat().st_mode & 0o777 == 0o600 for p in path.iterdir())


@pytest.mark.parametrize("change", ["mode", "hard link", "owner"])
def test_pidful_handler_writes_to_no_file_of_another_account(pidful, capsys, monkeypatch, change):
    handler, path = pidful
    file = path / os.path.basename(handler.template % (getpass.getuser(), os.getpid()))
    file.touch(mode=0o600)
    if change == "mode":
        file.chmod(0o622)
    elif change == "hard link":
        os.link(file, path / "other")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 1234567)
    handler.emit(record("secret"))
    assert file.read_text() == "" and "made by another account" in capsys.readouterr().err


def test_pidful_handler_does_not_follow_links(pidful, capsys):
    import getpass

    handler, path = pidful
    target = path / "victim"
    target.write_text("")
    os.symlink(str(target), handler.template % (getpass.getuser(), os.getpid()))
    handler.emit(record("secret"))
    assert target.read_text() == "" and "Logging error" in capsys.readouterr().err


def test_logging_is_imported_only_by_programs_that_log():
    program = (
        "import sys; import mitogen.core as c; c.Latch, c.Receiver, c.pipe; "
        "print('logging' in sys.modules); c.LOG; print('logging' in sys.modules)"
    )
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, env=env, timeout=30
    )
    assert done.stdout.split() == ["False", "True"], done.stderr
