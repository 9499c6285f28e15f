"""first_call.py: output and log records of a child, its process name, errors as sent."""

import logging
import os
import sys
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.calls import first_call
from mitogen.calls.first_call import LogSender, StdioLogger
from tests import conftest
from tests.unit import nodes

LEVEL = 20


@pytest.fixture
def pair(net):
    """A master, a child, and the list of the child's log records."""
    master, one = net.line(2)
    records = []
    master.router.add_handler(lambda msg: records.append(core.decode(msg.data)), core.FORWARD_LOG)
    return master, one, records


@pytest.fixture
def logs(pair):
    return LogSender(pair[1].router)


def use_up(one):
    """Take all credit of the log flow; return the flow."""
    one.router.flows[(0, core.FORWARD_LOG)] = flow = core.Window(core.LOG_WINDOW)
    flow.credit = 0
    return flow


# ---- records


def test_a_record_goes_to_the_master(pair, logs):
    logs.send(["app", 30, "text", "/a.py", 7, "f"])
    pair[0].net.pump()
    assert pair[2] == [["app", 30, "text", "/a.py", 7, "f"]]


def test_over_credit_records_are_lost_and_counted(pair, logs):
    master, one, records = pair
    flow = use_up(one)
    for _ in range(3):
        logs.send(["app", 30, "lost", None, 0, None])
    assert logs.lost == 3 and not one.up.sent
    flow.credit = 1000
    logs.send(["app", 30, "next", None, 0, None])
    logs.send(["app", 30, "after", None, 0, None])
    master.net.pump()
    assert [each[2] for each in records] == ["next (3 records before this were lost)", "after"]


def test_a_child_s_router_logs_by_level(pair):
    master, one, records = pair
    one.router.log_level = 30
    core.ChildRouter.log(one.router, 20, "not %s", "this")
    core.ChildRouter.log(one.router, 40, "100%")
    core.ChildRouter.log(one.router, 40, "%d%%", 50)
    master.net.pump()
    assert [each[:3] for each in records] == [["mitogen", 40, "100%"], ["mitogen", 40, "50%"]]


# ---- standard output and error


class Broker(nodes.Broker):
    def __init__(self, net):
        nodes.Broker.__init__(self, net)
        self.poller = core.Poller()


@pytest.fixture
def stdio(pair, logs):
    """(StdioLogger on a descriptor of the test, that descriptor, function that runs the logger)."""
    master, one, records = pair
    before = conftest.open_descriptors()
    fd = os.dup(0)
    poller = one.broker.poller = core.Poller()
    logger = StdioLogger(logs, "stdout", fd)

    def turn():
        master.net.pump()
        with one.broker.thread():
            poller.poll(0)
        master.net.pump()

    turn()
    yield logger, fd, turn
    os.close(fd)
    os.close(logger.rfd)
    assert not conftest.open_descriptors() - before


def texts(records):
    return [(each[0], each[1], each[2]) for each in records]


def test_each_line_is_a_record(pair, stdio):
    logger, fd, turn = stdio
    os.write(fd, b"one\ntwo\n\nhal")
    turn()
    os.write(fd, b"f\n\xff\n")
    turn()
    lines = ["one", "two", "", "half", "\ufffd"]
    assert texts(pair[2]) == [("stdout", first_call.INFO, line) for line in lines]


def test_unterminated_line_is_logged_at_the_end(pair, stdio):
    logger, fd, turn = stdio
    os.write(fd, b"last words")
    turn()
    assert pair[2] == []
    with pair[1].broker.thread():
        logger.finish()
        logger.finish()
    turn()
    assert texts(pair[2]) == [("stdout", 20, "last words")]


def test_long_unterminated_line_is_split(pair, stdio):
    logger, fd, turn = stdio
    for _ in range(6):
        os.write(fd, b"x" * 16000)
        turn()
    assert 1 <= len(pair[2]) <= 2 and len(logger.rest) <= 65536


def test_output_is_not_read_without_credit(pair, stdio):
    master, one, records = pair
    logger, fd, turn = stdio
    flow = use_up(one)
    os.write(fd, b"one\n")
    turn()
    assert logger.rfd not in one.broker.poller.table  # writers block, as on a terminal
    os.write(fd, b"two\n")
    master.net.advance(1)
    assert logger.rfd not in one.broker.poller.table and records == []
    flow.credit = 60000
    one.router.drain(flow)
    master.net.advance(0.1)
    turn()
    assert [each[2] for each in records] == ["one", "two"]


def test_end_of_file_is_handled_once(pair, logs):
    master, one, records = pair
    one.broker.poller = core.Poller()
    fd = os.dup(0)
    logger = StdioLogger(logs, "stderr", fd)
    master.net.pump()
    os.close(fd)
    with one.broker.thread():
        one.broker.poller.poll(0)
    assert not one.broker.poller.table
    os.close(logger.rfd)


# ---- logging


@pytest.fixture
def quiet_root():
    root = logging.getLogger()
    before = list(root.handlers), root.level
    root.handlers[:] = []
    yield root
    root.handlers[:], root.level = before


def test_the_handler_of_logging(pair, logs, quiet_root):
    first_call.install_log_handler(logs, [["", logging.INFO], ["app.noisy", logging.ERROR]])
    logging.getLogger("app").info("%s done", "50%")
    logging.getLogger("app").debug("not this")
    logging.getLogger("app.noisy").warning("nor this")
    pair[0].net.pump()
    ((name, level, text, path, line, func),) = pair[2]
    assert (name, level, text, func) == ("app", 20, "50% done", "test_the_handler_of_logging")
    assert path == __file__ and line > 0
    logging.getLogger("app.noisy").setLevel(logging.NOTSET)


def test_error_in_the_handler_does_not_reach_the_program(pair, logs, quiet_root, monkeypatch):
    first_call.install_log_handler(logs, [])
    handled = []
    monkeypatch.setattr(logging.Handler, "handleError", lambda self, record: handled.append(record))
    monkeypatch.setattr(logs, "send", lambda fields: 1 // 0)
    logging.getLogger("app").error("x")
    assert len(handled) == 1


def test_handler_is_installed_when_logging_is_imported(logs, monkeypatch):
    installed = []
    monkeypatch.setattr(first_call, "install_log_handler", lambda *args: installed.append(args))
    finder = first_call._LoggingFinder(logs, [["", 10]])
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert finder.find_spec("json") is None
    spec = finder.find_spec("logging")
    assert finder not in sys.meta_path
    module = type(sys)("logging")
    module.__dict__.update(__name__="logging", __spec__=spec, __path__=[])
    monkeypatch.setattr(spec.loader, "exec_module", spec.loader.exec_module)
    assert installed == []
    inner = []
    wrapped = SimpleNamespace(exec_module=inner.append)
    finder._wrap(wrapped)
    wrapped.exec_module(module)
    assert inner == [module] and installed == [(logs, [["", 10]])]


# ---- errors


class Odd(Exception):
    def __str__(self):
        raise RuntimeError


def test_describe():
    error = core.CallError("x")
    text = first_call.describe(error, KeyError("a"))
    assert (error.type_name, error.message, error.traceback) == ("builtins.KeyError", "'a'", None)
    assert text.startswith("builtins.KeyError: 'a'\n")
    try:
        raise Odd
    except Odd as e:
        text = first_call.describe(error, e)
    assert error.type_name == __name__ + ".Odd" and "cannot be had" in error.message
    assert "raise Odd" in error.traceback


# ---- the process


def test_failure_to_set_the_process_name_is_ignored(monkeypatch):
    def refuse(*args):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    first_call.set_process_name("mitogen:x")


def test_flush_survives_a_replaced_stdout(pair, logs, monkeypatch):
    done = []
    closed = open(os.devnull, "w")
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    monkeypatch.setattr(sys, "stderr", None)
    finished = SimpleNamespace(finish=lambda: done.append(1))
    econtext = SimpleNamespace(broker=pair[1].broker, stdout_log=finished, stderr_log=finished)
    first_call.flush(econtext)
    pair[0].net.pump()
    assert done == [1, 1]
