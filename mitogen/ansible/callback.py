"""
The callback plugin `mitogen.ansible.mitogen`: no callback at all, but the one place where a program
of the user's choice runs in Ansible's main process before it forks workers.

Rules
    1. It prints nothing, and needs nothing of a release of Ansible but a loader's
       get_with_context().
    2. What it can't do it leaves undone: then tasks are slower, or go the stock way, with a line at
       -vvv.

Threads: the main process' main one.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from ansible.plugins import loader
from ansible.plugins.callback import CallbackBase
from ansible.utils.display import Display

from mitogen.ansible import transports

__all__ = ["CallbackModule", "redirect"]

display = Display()

#: The collection that pip puts our plugins in.
COLLECTION = "mitogen.ansible."
#: Where each stock plugin may be named.
PREFIXES = ("", "ansible.builtin.", "ansible.legacy.")
#: Plugins that most tasks need: each takes a worker some milliseconds to find and import.
ACTIONS = ("normal", "command", "shell", "copy", "template", "gather_facts", "debug", "set_fact")
MODULES = ("ansible.executor.interpreter_discovery", "ansible.executor.module_common")


def redirect(connection_loader: Any, names: dict[str, str]) -> None:
    """
    Have a loader give other plugins for some names.

    :param connection_loader: Ansible's
    :param names: what is asked for to what is given
    """
    original = connection_loader.get_with_context
    if getattr(original, "mitogen_names", None) is not None:
        original.mitogen_names.update(names)
        return

    known = dict(names)

    @functools.wraps(original)
    def get_with_context(name: Any, *args: Any, **kwargs: Any) -> Any:
        return original(known.get(name, name), *args, **kwargs)

    get_with_context.mitogen_names = known  # type: ignore[attr-defined]
    connection_loader.get_with_context = get_with_context


def _ours(kind: str) -> str:
    """Return what our plugin of a kind is called here."""
    for name in (COLLECTION + kind, "mitogen_" + kind):
        if loader.connection_loader.get(name, class_only=True) is not None:
            return name
    raise LookupError("there is no connection plugin %s%s" % (COLLECTION, kind))


class CallbackModule(CallbackBase):  # type: ignore[misc]  # not installed beside the checks
    """See the shim's DOCUMENTATION."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "mitogen.ansible.mitogen"
    CALLBACK_NEEDS_ENABLED = True

    def set_options(self, *args: Any, **kwargs: Any) -> None:
        """Called once, before any play."""
        super().set_options(*args, **kwargs)
        try:
            self._prepare(self.get_option("redirect") or [])
        except Exception as e:
            display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))

    def _prepare(self, stock: list[str]) -> None:
        names = {}
        for name in stock:
            kind = transports.kind_of(name) or name
            ours = _ours(kind)
            row = transports.KINDS.get(kind)
            known = [prefix + kind for prefix in PREFIXES] + (row.stock if row else [])
            names.update({each: ours for each in [name, *known]})
            if ours.startswith(COLLECTION):
                # As they are called in a checkout.
                aliases = transports.NAMES.items()
                names.update({n: COLLECTION + k for n, k in aliases if n.startswith("mitogen_")})
        redirect(loader.connection_loader, names)
        for module in MODULES:
            importlib.import_module(module)
        for action in ACTIONS:
            loader.action_loader.get(action, class_only=True)
