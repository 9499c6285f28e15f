"""mitogen.utils: routers around functions, logging, plain values; mitogen.main()."""

import collections
import logging
import os
import sys
from types import SimpleNamespace

import pytest

import mitogen
from mitogen import core, utils


@pytest.fixture
def root():
    """Return the root logger, and restore it afterwards."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


# ---- cast()


class Text(str):
    pass


class Number(int):
    pass


class Real(float):
    pass


class Data(bytes):
    pass


class Pair(list):
    pass


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value, plain",
    [
        (None, None),
        (True, True),
        (Text("x"), "x"),
        (Number(3), 3),
        (Real(1.5), 1.5),
        (Data(b"x"), b"x"),
        (Pair([Text("x")]), ["x"]),
        (Point(1, Text("y")), [1, "y"]),
        ((1, ("b", 2)), [1, ["b", 2]]),
        (collections.OrderedDict([(Text("a"), Number(1))]), {"a": 1}),
        (collections.defaultdict(list, {"a": Pair([1])}), {"a": [1]}),
        ({"a": [{"b": (Text("c"),)}]}, {"a": [{"b": ["c"]}]}),
    ],
)
def test_cast(value, plain):
    found = utils.cast(value)
    assert found == plain and repr(found) == repr(plain)
    assert core.decode(core.encode(found)) == plain


@pytest.mark.parametrize(
    "value",
    [
        core.Blob(b"x"),
        core.Secret("x"),
        core.Kwargs({"a": 1}),
        core.Context(None, 1),
        core.CallError("x"),
        core.Sender(None, 1),
    ],
)
def test_values_that_can_be_sent_are_unchanged(value):
    assert utils.cast(value) is value and utils.cast([value])[0] is value
    assert isinstance(value, utils.PASSTHROUGH)


@pytest.mark.parametrize("value", [object(), {1, 2}, [1j], {"a": object()}, print])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="cannot cast"):
        utils.cast(value)


# ---- routers


@pytest.fixture(autouse=True)
def small_core(monkeypatch):
    """Avoid the 100 ms that minifying takes where its result can't be cached."""
    monkeypatch.setattr("mitogen.master._core_source", lambda: b"")


def used(router, *args, **kwargs):
    return router, router.broker.alive, args, kwargs


def test_run_with_router_and_with_router():
    router, alive, args, kwargs = utils.run_with_router(used, 1, a=2)
    assert alive and args == (1,) and kwargs == {"a": 2}
    assert not router.broker.alive
    wrapped = utils.with_router(used)
    assert (wrapped.__name__, wrapped.__module__, wrapped.__doc__) == (
        "used",
        __name__,
        used.__doc__,
    )
    assert wrapped.__qualname__ == "used" and not wrapped(1)[0].broker.alive


def test_an_error_shuts_down_the_router_too():
    seen = []

    def fail(router):
        seen.append(router)
        raise ValueError("x")

    with pytest.raises(ValueError):
        utils.run_with_router(fail)
    assert not seen[0].broker.alive


def test_main_runs_only_the_main_module(monkeypatch, root):
    ran = []
    router = SimpleNamespace(profiling=False)
    monkeypatch.setattr(utils, "run_with_router", lambda func: func(router))

    def program(router):
        ran.append(router.profiling)

    assert mitogen.main()(program) is program and ran == []
    program.__module__ = "__main__"
    mitogen.main(log_level="ERROR", profiling=True)(program)
    mitogen.main()(program)
    assert ran == [True, True] and root.level <= logging.ERROR


def test_main_limits_the_modules_that_contexts_may_read(monkeypatch):
    def program(router):
        policy = router.responder.policy
        return [
            bool(policy.denied(name)) for name in ("__main__", "app.part", "mitogen.core", "os")
        ]

    program.__module__ = "__main__"
    monkeypatch.setattr(utils, "log_to_file", lambda **_: None)
    expected = [False, False, False, True]
    assert mitogen.main(modules=["app"])(program) == expected
    assert mitogen.main(modules="app")(program) == expected
    assert mitogen.main()(program) == [False] * 4


# ---- logging


def test_log_to_file_writes_the_file(tmp_path, root, monkeypatch):
    monkeypatch.delenv("MITOGEN_LOG_LEVEL", raising=False)
    root.setLevel(logging.WARNING)
    path = tmp_path / "log"
    utils.log_to_file(str(path), level="INFO", io=False)
    logging.getLogger("some.name").info("text é")
    logging.getLogger("some.name").debug("not this")
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert line.endswith(" %d I some.name: text é" % os.getpid())


def test_log_to_file_defaults_to_stderr(root, capsys, monkeypatch):
    monkeypatch.delenv("MITOGEN_LOG_LEVEL", raising=False)
    utils.log_to_file(level="DEBUG")
    logging.getLogger("x").debug("there")
    assert "D x: there" in capsys.readouterr().err


def test_log_to_file_replaces_the_file_of_an_earlier_call(tmp_path, root):
    """A program whose main() has set up logging gets each line once."""
    before = len(root.handlers)
    for name in ("one", "two"):
        utils.log_to_file(str(tmp_path / name))
    logging.getLogger("x").warning("there")
    assert len(root.handlers) <= before + 1
    assert (tmp_path / "one").read_text() == "" and "there" in (tmp_path / "two").read_text()


def test_log_levels_come_from_the_environment(root, monkeypatch):
    monkeypatch.delenv("MITOGEN_LOG_LEVEL", raising=False)
    utils.log_levels_configure("WARNING")
    assert root.level == logging.WARNING
    utils.log_levels_configure()
    assert root.level == logging.INFO
    monkeypatch.setenv("MITOGEN_LOG_LEVEL", "io")
    utils.log_levels_configure()
    assert root.level == utils.IO == 5
    for wrong in ("loud", "getLogger"):
        monkeypatch.setenv("MITOGEN_LOG_LEVEL", wrong)
        with pytest.raises(ValueError, match="is not a log level; use IO, DEBUG"):
            utils.log_levels_configure()


def test_the_formatter_shows_level_logger_and_message():
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "m", (), None)
    assert utils.log_get_formatter().format(record).endswith(" E n: m")


# ---- the rest


def test_disable_site_packages(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/a", "/x/site-packages", "/x/dist-packages/y", "/b"])
    utils.disable_site_packages()
    assert sys.path == ["/a", "/b"]


def test_setup_gil_does_nothing():
    assert utils.setup_gil() is None


def test_the_package_has_its_names():
    assert (mitogen.is_master, mitogen.context_id, mitogen.parent_id) == (True, 0, None)
    assert mitogen.parent_ids == [] and isinstance(mitogen.__version__, tuple)
    assert all(hasattr(mitogen, name) for name in mitogen.__all__)
