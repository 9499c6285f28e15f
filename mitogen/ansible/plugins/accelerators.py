"""
Where Ansible itself spends time on what it need not do: a table of what is wrapped, and by what.

    awaited results    its main process asks every millisecond whether a worker has brought one: a
                       sixth of a play's processor time. It sleeps until one has.
    quoted modules     a module's zip, as base64, is written as a Python literal: 1 ms a task.
    kept templates     a loop compiles the same templates for each item: 1.2 ms.
    unneeded parser    each `ssh` connection makes an argument parser that only a command with a
                       terminal needs: 1.5 ms a task.
    known settings     a worker works out some sixty settings anew, of which a task's variables
                       change two or three: 2 ms.

Rules
    1. What is done is what core would have done: results, their order and all texts are the same.
    2. Nothing is wrapped that is not as we know it: then core does it as ever, with a line at -vvv.

Threads: the main process' main one waits for results, which the strategy's thread appends; else a
worker's only one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import importlib
import inspect
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mitogen.ansible.plugins import run

__all__ = [
    "await_results",
    "keep_templates",
    "make_parsers_late",
    "quote_modules",
    "remember_settings",
]

#: Seconds between looks at what nobody tells of: a worker that has died, a run that is to end.
LOOK = 0.05


def _wrap(owner: Any, wrappers: dict[str, tuple[list[str], Callable[[Any], Any]]]) -> None:
    """
    Put wrappers in place of attributes, of all of them or of none.

    :param owner: class
    :param wrappers: attribute to (names of its first parameters, what makes the wrapper of it)
    """
    if all(hasattr(getattr(owner, name, None), "is_mitogen") for name in wrappers):
        return
    made = {}
    for name, (parameters, make) in wrappers.items():
        found = getattr(owner, name, None)
        begin = [*inspect.signature(found).parameters][: len(parameters)] if callable(found) else []
        if begin != parameters:
            where = getattr(owner, "__name__", "nowhere")
            run.say_once("%s.%s is not as we know it: it stays" % (where, name))
            return
        wrapper: Any = functools.wraps(found)(make(found))  # type: ignore[arg-type]  # it is callable
        wrapper.is_mitogen = True
        made[name] = wrapper
    for name, wrapper in made.items():
        setattr(owner, name, wrapper)


# ---- awaited results


class Results(collections.deque[Any]):
    """A strategy's results, whose arrival can be waited for."""

    #: Nothing else is done meanwhile.
    is_awaited = False

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)
        self._came = threading.Event()

    def append(self, item: Any) -> None:
        """Called by the strategy's thread."""
        super().append(item)
        self._came.set()

    def wait(self) -> None:
        """Return when there is one, or after LOOK."""
        self._came.clear()
        if not self:
            self._came.wait(LOOK)


def await_results(strategy_base: Any) -> None:
    """
    Have plays wait for results.

    :param strategy_base: core's StrategyBase
    """
    parameters = ["self", "iterator"]
    # What loops; and what takes the results in each turn of that, which others call, too, who have
    # other things to do.
    _wrap(
        strategy_base,
        {
            "_wait_on_pending_results": (parameters, _loop),
            "_process_pending_results": (parameters, _turn),
        },
    )


def _loop(original: Any) -> Any:
    def wait_on_pending_results(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._results_lock:
                if not isinstance(self._results, Results):
                    self._results = Results(self._results)
            self._results.is_awaited = True
        except (AttributeError, TypeError):
            return original(self, *args, **kwargs)
        try:
            return original(self, *args, **kwargs)
        finally:
            self._results.is_awaited = False

    return wait_on_pending_results


def _turn(original: Any) -> Any:
    def process_pending_results(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(getattr(self, "_results", None), "is_awaited", False):
            self._results.wait()
        return original(self, *args, **kwargs)

    return process_pending_results


# ---- quoted modules


class Quoted(str):
    """Text that is the same in quotes."""

    def __repr__(self) -> str:
        return "'%s'" % str.__str__(self)


def quote_modules(cached_module: Any) -> None:
    """
    Have built modules be written without being looked at, byte by byte.

    :param cached_module: core's _CachedModule, from ansible-core 2.19 on; None before
    """
    if cached_module is not None:
        _wrap(cached_module, {"load": (["path"], _loaded)})


def _loaded(original: Any) -> Any:
    def load(path: Any) -> Any:
        found = original(path)
        data = getattr(found, "zip_data", None)
        if type(data) is bytes and data.isascii() and not any(c in data for c in b"'\\\r\n"):
            return dataclasses.replace(found, zip_data=Quoted(data.decode("ascii")))
        return found

    return load


# ---- kept templates

#: A template of text and of variables, with whatever names after them: what that is compiled to
#: depends on nothing else, as it would with a filter, which is looked up by the way.
PLAIN = re.compile(
    r"""(?x) (?: [^{}\\]*
                 \{\{ \s* [^\W\d]\w* (?: \.\w+ | \[\d+\] | \['\w+'\] )* \s* \}\} )+
             [^{}\\]*"""
)
#: What of a Jinja environment says how a template is read, and written as Python.
READING = """
    block_start_string block_end_string variable_start_string variable_end_string
    comment_start_string comment_end_string line_statement_prefix line_comment_prefix trim_blocks
    lstrip_blocks newline_sequence keep_trailing_newline autoescape optimized is_async
    _debuggable_template_source
""".split()
#: How many are kept.
KEPT = 500
#: Where core's subclass of jinja2.Environment is: from 2.19 on, and before.
PLACES = ("ansible._internal._templating._jinja_bits", "ansible.template")


def keep_templates() -> None:
    """Have plain templates be compiled once in each process."""
    environment = None
    for name in PLACES:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            environment = environment or getattr(module, "AnsibleEnvironment", None)
    _wrap(environment, {"compile": (["self", "source", "name", "filename", "raw"], _kept)})


def _kept(original: Any) -> Any:
    known: dict[Any, Any] = {}

    def compile(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not isinstance(source, str) or not PLAIN.fullmatch(source):
            return original(self, source, *args, **kwargs)
        how = [getattr(self, name, None) for name in READING]
        key = (type(self), str.__str__(source), *how, *self.extensions)
        code = known.get(key)
        if code is None:
            code = original(self, source)
            if len(known) >= KEPT:
                known.clear()
            known[key] = code
        return code

    return compile


# ---- unneeded parser


class LateParser:
    """In place of argparse.ArgumentParser: is made when it is used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._calls: list[Any] = [(args, kwargs)]

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        """Note an argument; what argparse would return is not known yet."""
        self._calls.append((args, kwargs))

    def __getattr__(self, name: str) -> Any:
        (args, kwargs), *calls = self._calls
        parser = argparse.ArgumentParser(*args, **kwargs)
        for args, kwargs in calls:
            parser.add_argument(*args, **kwargs)
        return getattr(parser, name)


class _LateArgparse:
    ArgumentParser = LateParser

    def __getattr__(self, name: str) -> Any:
        return getattr(argparse, name)


def make_parsers_late(module: Any) -> None:
    """
    Have a module make its argument parsers when they are used.

    :param module: of a stock plugin
    """
    if getattr(module, "argparse", None) is argparse:
        module.argparse = _LateArgparse()


# ---- known settings


class Setting(NamedTuple):
    """
    What a setting is where nothing that is particular to a task says otherwise.

    :param definition: core's
    :param variables: names of the variables that may say otherwise
    :param keywords: likewise, of keywords of tasks and plays
    :param answer: (value, origin)
    """

    definition: Any
    variables: frozenset[str]
    keywords: frozenset[str]
    answer: Any

    def is_particular(self, keys: Any, variables: Any) -> bool:
        """Return whether one of these says something."""
        return bool(
            (variables and any(name in variables for name in self.variables))
            or (keys and any(name in keys for name in self.keywords))
        )

    def given(self) -> Any:
        """Return the answer, which is the caller's own to change."""
        value, origin = self.answer
        return (value[:], origin) if type(value) is list else self.answer


#: Parameters of ConfigManager.get_config_value_and_origin().
PARAMETERS = ["self", "config", "cfile", "plugin_type", "plugin_name", "keys", "variables"]
PARAMETERS += ["direct"]


def remember_settings(config_manager: Any) -> None:
    """
    Have settings that can't change be looked up once: the command line, the environment and
    ansible.cfg are those of the run.

    :param config_manager: core's ConfigManager
    """
    _wrap(config_manager, {"get_config_value_and_origin": (PARAMETERS, _remembered)})


def _remembered(original: Any) -> Any:
    known: dict[Any, Setting] = {}

    def get_config_value_and_origin(
        self: Any,
        config: Any,
        cfile: Any = None,
        plugin_type: Any = None,
        plugin_name: Any = None,
        keys: Any = None,
        variables: Any = None,
        direct: Any = None,
        **more: Any,
    ) -> Any:
        def ask() -> Any:
            return original(
                self, config, cfile, plugin_type, plugin_name, keys, variables, direct, **more
            )

        if cfile is not None or direct or any(more.values()):
            return ask()
        try:
            definition = self.get_configuration_definitions(plugin_type, plugin_name)[config]
        except (AttributeError, LookupError, TypeError):
            return ask()
        key = (id(self), plugin_type, plugin_name, config)
        found = known.get(key)
        if found is None or found.definition is not definition:
            answer = ask()
            found = _setting(config, definition, answer)
            if found is not None and not found.is_particular(keys, variables):
                known[key] = found._replace(answer=found.given())
            return answer
        return ask() if found.is_particular(keys, variables) else found.given()

    return get_config_value_and_origin


def _setting(config: str, definition: Any, answer: Any) -> Setting | None:
    """Return a setting with an answer; None if it can't be known what may change it."""
    if not isinstance(definition, dict) or "{{" in str(definition.get("default")):
        return None
    if not (isinstance(answer, tuple) and len(answer) == 2):
        return None
    values = answer[0] if type(answer[0]) is list else [answer[0]]
    if not all(isinstance(value, (str, int, float, type(None))) for value in values):
        # What has others in it, or is of a kind of its own, may be changed by who asks.
        return None
    try:
        aliases = definition.get("aliases") or []
        variables = [each["name"] for each in definition.get("vars") or []]
        keywords = [each["name"] for each in definition.get("keyword") or []]
    except (KeyError, TypeError):
        return None
    keywords += [config, *aliases]
    return Setting(definition, frozenset(variables), frozenset(keywords), answer)
