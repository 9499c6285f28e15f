"""
What happens in Ansible's main process before it forks workers, and the callback plugin
`mitogen.ansible.mitogen`, which is no callback at all but the one place where that can be done.

Rules
    1. It prints nothing, but of a setting that is wrong. What it needs of a release of Ansible is a
       loader's get_with_context() and what accelerators.py looks at before it wraps it.
    2. What it can't do it leaves undone: then tasks are slower, or go the stock way, with a line at
       -vvv.
    3. enable() may be called any number of times, by any number of ways in.
    4. A play that needs no connection is left as it is, with the stock plugins.

Threads: the main process' main one.
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

#: Plugins that most tasks need: each takes a worker some milliseconds to find and import.
ACTIONS = ("normal", "command", "shell", "copy", "template", "gather_facts", "debug", "set_fact")
MODULES = (
    "ansible.executor.interpreter_discovery",
    "ansible.executor.module_common",
    "mitogen.ansible.plugins.connection",
    # From ansible-core 2.19 on.
    *(
        "ansible.module_utils._internal._json._profiles._module_%s" % profile
        for profile in ("legacy_c2m", "legacy_m2c", "modern_c2m", "modern_m2c")
    ),
)
#: Those whose settings each worker looks up.
PLUGINS = [
    (loader.connection_loader, "ssh"),
    (loader.connection_loader, "local"),
    (loader.shell_loader, "sh"),
    (loader.become_loader, "sudo"),
]
#: Settings of no plugin that each worker looks up, besides.
SETTINGS = (
    *("DEFAULT_MODULE_COMPRESSION", "DEFAULT_NO_TARGET_SYSLOG", "DOCSITE_ROOT_URL"),
    *("INTERPRETER_PYTHON", "PYTHON_MODULE_RLIMIT_NOFILE", "TARGET_LOG_INFO"),
)
#: What runs on the controller, without a connection.
NEED_NO_CONNECTION = {
    *("add_host", "assert", "debug", "fail", "group_by", "include_vars", "meta", "pause"),
    *("set_fact", "set_stats", "validate_argument_spec"),
}
#: The broker process that was started ahead; it ends by itself.
_started: list[Any] = []


@functools.cache
def preload() -> None:
    """Import what tasks need, once for all workers."""
    for module in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    for action in ACTIONS:
        loader.action_loader.get(action, class_only=True)
    look_up_settings()
    # So that it knows what is in its directories.
    loader.module_loader.find_plugin_with_context("ansible.legacy.ping")
    # What a worker has from the main process it need not look through for garbage: that took 90 ms
    # of one that builds a module, and a copy of each page.
    os.register_at_fork(after_in_child=_collect_less)


def look_up_settings() -> None:
    """Have settings that most tasks use be known to all workers: see remember_settings()."""
    for name in SETTINGS:
        with contextlib.suppress(Exception):
            C.config.get_config_value(name)
    for plugins, name in PLUGINS:
        with contextlib.suppress(Exception):
            plugin = plugins.get(name, class_only=True)
            C.config.get_plugin_options(plugins.type, plugin._load_name)


def _collect_less() -> None:
    gc.freeze()
    # A worker ends long before there is much to be found.
    gc.set_threshold(10000)


def needs_connection(play: Any) -> bool:
    """Return whether there is a task that needs one, or may: of a role, an included file."""
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


def enable(who: str, stock: list[str], play: Any) -> None:
    """
    Have the workers that a play forks use our connections, and find imported what they need; and
    start the run's broker process, if there is none, while Ansible is getting ready to need it.

    :param who: the way in that asks, for disable()
    :param stock: connection plugins of Ansible in whose place ours are used
    :param play: has the stock ones if it needs no connection
    """
    try:
        connections = redirect.redirection(loader.connection_loader)
        accelerators.await_results(strategy.StrategyBase)
        if not needs_connection(play):
            connections.unwant(who)
            return
        # An empty variable is a list of one empty name.
        names = [name for name in stock if name]
        if names:
            # First: it goes on by itself.
            _start_broker()
        connections.want(who, names)
        preload()
    except Exception as e:
        display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))


def _start_broker() -> None:
    # What is wrong is said by the worker that needs it.
    with contextlib.suppress(Exception):
        _started.append(client.Client(run.directory(), os.getpid()).start())


def disable(who: str) -> None:
    """
    Have the workers that are forked from now on use the stock connections, unless another way in
    wants ours.

    :param who: as given to enable()
    """
    redirect.redirection(loader.connection_loader).unwant(who)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # not installed beside the checks
    """See the shim's DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "mitogen.ansible.mitogen"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Called for each play, before its first task."""
        enable("callback", self.get_option("redirect") or [], play)
