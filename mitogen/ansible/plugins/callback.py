"""
Preparation of Ansible's main process before it forks workers, and the callback plugin
`mitogen.ansible.mitogen`, which only exists because a callback is the place where that can be done.

Rules
    1. Nothing is printed, except warnings about wrong settings. The only requirements on a release
       of Ansible are a loader's get_with_context(), and those that accelerators.py checks before
       it wraps a function.
    2. After an error a step is skipped: tasks are slower or use the stock plugins, and a line is
       logged at -vvv.
    3. enable() is idempotent, and may be called by any number of entry points.
    4. A play that needs no connection is left unchanged, with the stock plugins.

Threads: the main process's main one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
from collections.abc import Iterator
from typing import Any

from ansible import constants as C
from ansible.plugins import loader, strategy
from ansible.plugins.callback import CallbackBase
from ansible.utils.display import Display

from mitogen.ansible.broker import client
from mitogen.ansible.plugins import accelerators, redirect, run

__all__ = ["CallbackModule", "disable", "enable", "preload"]

display = Display()

#: Plugins needed by most tasks: a worker takes some milliseconds to find and import each.
ACTIONS = ("normal", "command", "shell", "copy", "template", "gather_facts", "debug", "set_fact")
MODULES = (
    "ansible.executor.interpreter_discovery",
    "ansible.executor.module_common",
    "mitogen.ansible.plugins.connection",
    # Since ansible-core 2.19.
    *(
        "ansible.module_utils._internal._json._profiles._module_%s" % profile
        for profile in ("legacy_c2m", "legacy_m2c", "modern_c2m", "modern_m2c")
    ),
)
#: Plugins whose settings are looked up by each worker.
PLUGINS = [
    (loader.connection_loader, "ssh"),
    (loader.connection_loader, "local"),
    (loader.shell_loader, "sh"),
    (loader.become_loader, "sudo"),
]
#: Further settings looked up by each worker, which belong to no plugin.
SETTINGS = (
    *("DEFAULT_MODULE_COMPRESSION", "DEFAULT_NO_TARGET_SYSLOG", "DOCSITE_ROOT_URL"),
    *("INTERPRETER_PYTHON", "PYTHON_MODULE_RLIMIT_NOFILE", "TARGET_LOG_INFO"),
)
#: Actions that run on the controller, without a connection.
NEED_NO_CONNECTION = {
    *("add_host", "assert", "debug", "fail", "group_by", "include_vars", "meta", "pause"),
    *("set_fact", "set_stats", "validate_argument_spec"),
}
#: The broker process that was started in advance; it ends by itself.
_started: list[Any] = []


@functools.cache
def preload() -> None:
    """Import modules and plugins needed by tasks, once for all workers."""
    for module in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for action in ACTIONS:
        loader.action_loader.get(action, class_only=True)
    look_up_settings()
    # This makes the loader scan its directories.
    loader.module_loader.find_plugin_with_context("ansible.legacy.ping")
    # Objects inherited from the main process need no garbage collection in a worker: scanning them
    # took 90 ms in a worker that builds a module, and copied each page.
    os.register_at_fork(after_in_child=_collect_less)


def look_up_settings() -> None:
    """Look up settings of most tasks, so that workers inherit them: see remember_settings()."""
    for name in SETTINGS:
        with contextlib.suppress(Exception):
            C.config.get_config_value(name)
    for plugins, name in PLUGINS:
        with contextlib.suppress(Exception):
            plugin = plugins.get(name, class_only=True)
            C.config.get_plugin_options(plugins.type, plugin._load_name)


def _collect_less() -> None:
    gc.freeze()
    # A worker exits long before there is much to collect.
    gc.set_threshold(10000)


def needs_connection(play: Any) -> bool:
    """Return whether a task of the play, its roles or included files may need a connection."""
    if play.gather_facts is not False or play.get_roles():
        return True
    return any(map(_task_needs_connection, _flat([*play.get_tasks(), *play.get_handlers()])))


def _flat(tasks: Any) -> Iterator[Any]:
    for task in tasks:
        if isinstance(task, list):
            yield from _flat(task)
        elif hasattr(task, "block"):
            yield from _flat([*task.block, *task.rescue, *task.always])
        else:
            yield task


def _task_needs_connection(task: Any) -> bool:
    return str(task.action).rpartition(".")[2] not in NEED_NO_CONNECTION


def enable(entry_point: str, stock: list[str], play: Any) -> None:
    """
    Make the workers forked for a play use mitogen's connections and find their modules imported.
    Also start the run's broker process, unless it runs, while Ansible prepares the first task.

    :param entry_point: name of the caller, for disable()
    :param stock: names of Ansible's connection plugins to be replaced by mitogen's
    :param play: the play; one that needs no connection uses the stock plugins
    """
    try:
        connections = redirect.redirection(loader.connection_loader)
        accelerators.await_results(strategy.StrategyBase)
        if not needs_connection(play):
            connections.remove(entry_point)
            return
        # An empty variable is a list of one empty name.
        names = [name for name in stock if name]
        if names:
            # Done first, because it runs in the background.
            _start_broker()
        connections.add(entry_point, names)
        preload()
    except Exception as e:
        display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))


def _start_broker() -> None:
    # An error is reported by the worker that needs the broker.
    with contextlib.suppress(Exception):
        _started.append(client.Client(run.directory(), os.getpid()).start())


def disable(entry_point: str) -> None:
    """
    Make the workers forked from now on use the stock connections, unless another entry point has
    enabled mitogen's.

    :param entry_point: name given to enable()
    """
    redirect.redirection(loader.connection_loader).remove(entry_point)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # not installed beside the checks
    """The callback plugin. Its DOCUMENTATION is in the shim."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "mitogen.ansible.mitogen"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Handle the start of a play, before its first task."""
        enable("callback", self.get_option("redirect") or [], play)
