"""
Accelerators of Ansible itself: wrappers of functions that take avoidable time.

    awaited results    Ansible's main process polls every millisecond for results from workers: a
                       sixth of a play's CPU time. The wrapper sleeps until one arrives.
    quoted modules     Ansible writes a module's zip, as base64, as a Python literal: 1 ms a task.
    cached templates   A loop compiles the same templates for each item: 1.2 ms.
    unneeded parser    Each `ssh` connection makes an argument parser that only a command with a
                       terminal needs: 1.5 ms a task.
    cached settings    A worker computes some sixty settings for each task, of which the task's
                       variables change two or three: 2 ms.

Rules
    1. The effect is that of core's own code: results, their order and all texts are the same.
    2. A function with unexpected parameters is not wrapped: core works as without mitogen, and a
       line is logged at -vvv.

Threads: the main process's main thread waits for results, which the strategy's thread appends;
everything else runs on a worker's only thread.
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
import types
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

#: Seconds between polls for events without a notification: a worker's death, the end of the run.
POLL_INTERVAL = 0.05


def _wrap(owner: Any, wrappers: dict[str, tuple[list[str], Callable[[Any], Any]]]) -> None:
    """
    Replace attributes by wrappers: all of them, or none.

    :param owner: class
    :param wrappers: attribute to (names of its first parameters, function that makes its wrapper)
    """
    if all(hasattr(getattr(owner, name, None), "is_mitogen") for name in wrappers):
        return
    made = {}
    for name, (parameters, make) in wrappers.items():
        found = getattr(owner, name, None)
        begin = [*inspect.signature(found).parameters][: len(parameters)] if callable(found) else []
        if begin != parameters:
            where = getattr(owner, "__name__", "(not found)")
            text = "%s.%s is missing or has unexpected parameters: it is not accelerated"
            run.log_once(text % (where, name))
            return
        wrapper: Any = functools.wraps(found)(make(found))  # type: ignore[arg-type]  # it is callable
        wrapper.is_mitogen = True
        made[name] = wrapper
    for name, wrapper in made.items():
        setattr(owner, name, wrapper)


# ---- awaited results


class Results(collections.deque[Any]):
    """A strategy's queue of results, with a method to wait for one."""

    #: True while the strategy does nothing but wait for results.
    is_awaited = False

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)
        self._arrived = threading.Event()

    def append(self, item: Any) -> None:
        """Append a result. Called by the strategy's thread."""
        super().append(item)
        self._arrived.set()

    def wait(self) -> None:
        """Wait for a result, for at most POLL_INTERVAL."""
        self._arrived.clear()
        if not self:
            self._arrived.wait(POLL_INTERVAL)


def await_results(strategy_base: Any) -> None:
    """
    Make plays sleep until a result arrives, instead of polling.

    :param strategy_base: core's StrategyBase
    """
    parameters = ["self", "iterator"]
    # The first function loops over the second, which takes the results. The second also has other
    # callers, which must not wait.
    _wrap(
        strategy_base,
        {
            "_wait_on_pending_results": (parameters, _wrap_wait),
            "_process_pending_results": (parameters, _wrap_process),
        },
    )


def _wrap_wait(original: Any) -> Any:
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


def _wrap_process(original: Any) -> Any:
    def process_pending_results(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(getattr(self, "_results", None), "is_awaited", False):
            self._results.wait()
        return original(self, *args, **kwargs)

    return process_pending_results


# ---- quoted modules


class Quoted(str):
    """Text without characters that repr() would escape."""

    def __repr__(self) -> str:
        return "'%s'" % str.__str__(self)


def quote_modules(cached_module: Any) -> None:
    """
    Make core write built modules without scanning them byte by byte.

    :param cached_module: core's _CachedModule, since ansible-core 2.19; None before
    """
    if cached_module is not None:
        _wrap(cached_module, {"load": (["path"], _wrap_load)})


def _wrap_load(original: Any) -> Any:
    def load(path: Any) -> Any:
        found = original(path)
        data = getattr(found, "zip_data", None)
        if type(data) is bytes and data.isascii() and not any(c in data for c in b"'\\\r\n"):
            return dataclasses.replace(found, zip_data=Quoted(data.decode("ascii")))
        return found

    return load


# ---- cached templates

#: A template of text and variables, with attributes and items of any names. Its compiled code
#: depends on nothing else; with a filter it would, because filters are looked up at that time.
PLAIN = re.compile(
    r"""(?x) (?: [^{}\\]*
                 \{\{ \s* [^\W\d]\w* (?: \.\w+ | \[\d+\] | \['\w+'\] )* \s* \}\} )+
             [^{}\\]*"""
)
#: Attributes of a Jinja environment that affect parsing and code generation.
COMPILER_SETTINGS = """
    block_start_string block_end_string variable_start_string variable_end_string
    comment_start_string comment_end_string line_statement_prefix line_comment_prefix trim_blocks
    lstrip_blocks newline_sequence keep_trailing_newline autoescape optimized is_async
    _debuggable_template_source
""".split()
#: Maximum number of cached templates.
CACHE_SIZE = 500
#: Modules with core's subclass of jinja2.Environment: since 2.19, and before.
ENVIRONMENT_MODULES = ("ansible._internal._templating._jinja_bits", "ansible.template")


def keep_templates() -> None:
    """Compile plain templates only once in each process."""
    environment = None
    for name in ENVIRONMENT_MODULES:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            environment = environment or getattr(module, "AnsibleEnvironment", None)
    _wrap(environment, {"compile": (["self", "source", "name", "filename", "raw"], _wrap_compile)})


def _wrap_compile(original: Any) -> Any:
    cache: dict[Any, Any] = {}

    def compile(self: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not isinstance(source, str) or not PLAIN.fullmatch(source):
            return original(self, source, *args, **kwargs)
        settings = [getattr(self, name, None) for name in COMPILER_SETTINGS]
        key = (type(self), str.__str__(source), *settings, *self.extensions)
        code = cache.get(key)
        if code is None:
            code = original(self, source)
            if len(cache) >= CACHE_SIZE:
                cache.clear()
            cache[key] = code
        return code

    return compile


# ---- unneeded parser


class LateParser:
    """A replacement of argparse.ArgumentParser, which creates the real one when it is used."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._calls: list[Any] = [(args, kwargs)]

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        """Record an argument; argparse's result is not available yet."""
        self._calls.append((args, kwargs))

    def use(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Create the parser, and call its method *name*."""
        (init_args, init_kwargs), *calls = self._calls
        parser = argparse.ArgumentParser(*init_args, **init_kwargs)
        for call_args, call_kwargs in calls:
            parser.add_argument(*call_args, **call_kwargs)
        return getattr(parser, name)(*args, **kwargs)


for _name in dir(argparse.ArgumentParser):
    if not _name.startswith("_") and not hasattr(LateParser, _name):
        setattr(LateParser, _name, functools.partialmethod(LateParser.use, _name))


def make_parsers_late(module: Any) -> None:
    """
    Make a module create its argument parsers only when they are used.

    :param module: module of a stock plugin
    """
    if getattr(module, "argparse", None) is argparse:
        late = types.ModuleType(argparse.__name__)
        vars(late).update(vars(argparse), ArgumentParser=LateParser)
        module.argparse = late


# ---- cached settings


class Setting(NamedTuple):
    """
    A setting with its value in the absence of overrides by a task.

    :param definition: core's definition
    :param variables: names of the variables that override it
    :param keywords: names of the keywords of tasks and plays that override it
    :param answer: (value, origin)
    """

    definition: Any
    variables: frozenset[str]
    keywords: frozenset[str]
    answer: Any

    def is_overridden(self, keys: Any, variables: Any) -> bool:
        """Return whether any of these keywords or variables overrides the setting."""
        return bool(
            (variables and any(name in variables for name in self.variables))
            or (keys and any(name in keys for name in self.keywords))
        )

    def copy(self) -> Any:
        """Return the answer with a copy of a list, which the caller may change."""
        value, origin = self.answer
        return (value[:], origin) if type(value) is list else self.answer


#: Parameters of ConfigManager.get_config_value_and_origin().
PARAMETERS = ["self", "config", "cfile", "plugin_type", "plugin_name", "keys", "variables"]
PARAMETERS += ["direct"]


def remember_settings(config_manager: Any) -> None:
    """
    Look up settings only once if they can't change: the command line, the environment and
    ansible.cfg are those of the run.

    :param config_manager: core's ConfigManager
    """
    _wrap(config_manager, {"get_config_value_and_origin": (PARAMETERS, _wrap_get)})


def _wrap_get(original: Any) -> Any:
    cache: dict[Any, Setting] = {}

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
        def look_up() -> Any:
            return original(
                self, config, cfile, plugin_type, plugin_name, keys, variables, direct, **more
            )

        if cfile is not None or direct or any(more.values()):
            return look_up()
        try:
            definition = self.get_configuration_definitions(plugin_type, plugin_name)[config]
        except (AttributeError, LookupError, TypeError):
            return look_up()
        key = (id(self), plugin_type, plugin_name, config)
        found = cache.get(key)
        if found is None or found.definition is not definition:
            answer = look_up()
            found = _setting(config, definition, answer)
            if found is not None and not found.is_overridden(keys, variables):
                cache[key] = Setting(definition, found.variables, found.keywords, found.copy())
            return answer
        return look_up() if found.is_overridden(keys, variables) else found.copy()

    return get_config_value_and_origin


def _setting(config: str, definition: Any, answer: Any) -> Setting | None:
    """Return a setting with its answer; None if its possible overrides are not known."""
    if not isinstance(definition, dict) or "{{" in str(definition.get("default")):
        return None
    if not (isinstance(answer, tuple) and len(answer) == 2):
        return None
    values = answer[0] if type(answer[0]) is list else [answer[0]]
    if not all(isinstance(value, (str, int, float, type(None))) for value in values):
        # Nested values and those of other types may be changed by the caller.
        return None
    try:
        aliases = definition.get("aliases") or []
        variables = [each["name"] for each in definition.get("vars") or []]
        keywords = [each["name"] for each in definition.get("keyword") or []]
    except (KeyError, TypeError):
        return None
    keywords += [config, *aliases]
    return Setting(definition, frozenset(variables), frozenset(keywords), answer)
