"""
What happens in Ansible's main process before it forks workers, and the callback plugin
`mitogen.ansible.mitogen`, which is no callback at all but the one place where that can be done.

Rules
    1. It prints nothing, but of a setting that is wrong, and needs nothing of a release of Ansible
       but a loader's get_with_context().
    2. What it can't do it leaves undone: then tasks are slower, or go the stock way, with a line at
       -vvv.
    3. enable() may be called any number of times, by any number of ways in.

Threads: the main process' main one.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from ansible.plugins import loader
from ansible.plugins.callback import CallbackBase
from ansible.utils.display import Display

from mitogen.ansible import redirect

__all__ = ["CallbackModule", "disable", "enable", "preload"]

display = Display()

#: Plugins that most tasks need: each takes a worker some milliseconds to find and import.
ACTIONS = ("normal", "command", "shell", "copy", "template", "gather_facts", "debug", "set_fact")
MODULES = ("ansible.executor.interpreter_discovery", "ansible.executor.module_common")


@functools.cache
def preload() -> None:
    """Import what tasks need, once for all workers."""
    for module in MODULES:
        importlib.import_module(module)
    for action in ACTIONS:
        loader.action_loader.get(action, class_only=True)


def enable(who: str, stock: list[str]) -> None:
    """
    Have the workers that are forked from now on use our connections, and find imported what they
    need.

    :param who: the way in that asks, for disable()
    :param stock: connection plugins of Ansible in whose place ours are used
    """
    try:
        # An empty variable is a list of one empty name.
        names = [name for name in stock if name]
        redirect.redirection(loader.connection_loader).want(who, names)
        preload()
    except Exception as e:
        display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))


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

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Called once, before any play."""
        super().set_options(*args, **kwargs)
        enable("callback", self.get_option("redirect") or [])
