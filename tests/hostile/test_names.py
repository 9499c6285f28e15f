"""Names that a child chooses are bounded before they reach a table."""

import logging
import os
import threading

import pytest

from mitogen import core, parent
from tests.hostile.forged import SOON

NAME = "tests.hostile.known"


def log(forged, name, level=logging.INFO, text="x", path=None, line=0, func=None):
    forged.send(core.FORWARD_LOG, [name, level, text, path, line, func])


def flush(master, forged):
    """Return once the master's worker has done all it was given so far."""
    forged.ping()
    done = threading.Event()
    master.broker.defer(master.worker.put, done.set)
    assert done.wait(SOON)


def registry():
    """Return the entries of `logging`, and the most levels that any logger has cached."""
    loggers = logging.root.manager.loggerDict
    caches = [len(getattr(each, "_cache", ())) for each in [logging.root, *loggers.values()]]
    return set(loggers), max(caches)


@pytest.fixture
def quiet():
    """Log nothing: the attacks log thousands of records."""
    level = logging.root.level
    logging.root.setLevel(logging.CRITICAL + 1)
    yield
    logging.root.setLevel(level)


def test_loggers_of_a_child_never_enter_the_registry(master, honest, forged, quiet):
    log(forged, "one")
    flush(master, forged)
    before, _ = registry()
    log(forged, "a." * 60000)
    for number in range(300):
        log(forged, "name%d.below" % number)
    flush(master, forged)
    assert registry()[0] == before
    assert honest.call(os.getpid)


def test_levels_of_a_child_are_few(master, forged, quiet):
    for number in range(500):
        log(forged, "x", level=10**6 + number)
        log(forged, "x", level=-number)
    flush(master, forged)
    assert registry()[1] < 200


@pytest.mark.parametrize("name", ["a." * 60, "a" * 300, "a\nb", "a\x1b[2Jb", "\u202ea", "\udc80"])
def test_records_of_odd_loggers_share_one_name(master, forged, records, name):
    log(forged, name, text="unmistakable")
    record = records.wait_for("unmistakable")
    assert record.name == "unnamed.[%s]" % forged.context.name
    assert record.mitogen_name == "unnamed"


def test_a_record_is_handled_by_the_nearest_logger(master, forged, records):
    known = logging.getLogger(NAME)
    known.setLevel(logging.ERROR)
    try:
        log(forged, NAME + ".below", text="too low")
        log(forged, NAME + ".below", level=logging.ERROR, text="high enough")
        assert records.wait_for("").getMessage() == NAME + ".below: high enough"
    finally:
        known.setLevel(logging.NOTSET)


def test_names_of_contexts_are_short_and_harmless(master, forged):
    answer = forged.answer_to(parent.ALLOCATE_ID, flags=core.RAW)
    first, _ = core.PAIR.unpack(answer.data)
    name = "evil\n\x1b[2J" + "." * 100000
    forged.send(parent.ADD_ROUTE, core.NUMBER.pack(first) + name.encode(), flags=core.RAW)
    forged.ping()
    found = master.context_by_id(first, create=False).name
    assert found.startswith("evil\\n\\x1b[2J....") and len(found) < 250


@pytest.mark.parametrize("kind", ["builtins.ValueError", "builtins.print", "x" * 10**6, "a.b.c"])
def test_types_of_errors_are_those_of_this_program(forged, kind):
    from mitogen.calls import errors

    before = len(errors._error_types), len(core.ENCODERS)
    for number in range(50):
        error = errors.restore_call_error([kind + "x" * number, "m", None, "text"])
        assert isinstance(error, core.CallError) and len(error.type_name) < 250
    after = len(errors._error_types), len(core.ENCODERS)
    assert after[0] <= before[0] + 1 and after[1] <= before[1] + 1
