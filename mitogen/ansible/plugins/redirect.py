"""
Which connection plugin Ansible gets for a name: ours in a stock one's place, while a way in wants
it.

Rules
    1. One method of one loader is replaced, once: connection_loader.get_with_context().
    2. Each way in has names of its own: the callback's stay, a strategy's go when its play ends.
    3. Plugins are found as a collection, where pip puts them, else in the checkout's directory, of
       which Ansible's configuration need not know.

Threads: the main process' main one. Workers are copies of that process.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

from ansible.utils.display import Display

from mitogen.ansible.plugins import method_options

__all__ = ["Redirection", "find", "redirection"]

display = Display()

COLLECTION = "mitogen.ansible."
#: Before names that are a stock plugin's otherwise: in a checkout, and in releases 0.2 and 0.3.
OLD_PREFIX = "mitogen_"
#: Where each stock plugin may be named.
PREFIXES = ("", "ansible.builtin.", "ansible.legacy.")
ROOT = str(pathlib.Path(__file__).absolute().parents[3])


def find(loader: Any, kind: str, name: str) -> str | None:
    """
    Return the name by which a loader has a plugin of ours; None if it has not.

    :param loader: Ansible's for that kind of plugin
    :param kind: its directory's name, `connection` say
    :param name: the plugin's in our collection
    """
    in_checkout = name if name.startswith("mitogen") else OLD_PREFIX + name
    directory = os.path.join(ROOT, "ansible_plugins", kind)
    if loader.find_plugin_with_context(COLLECTION + name).resolved:
        return COLLECTION + name
    if not os.path.exists(os.path.join(directory, in_checkout + ".py")):
        return None
    if not loader.find_plugin_with_context(in_checkout).resolved:
        loader.add_directory(directory)
    return in_checkout


class Redirection:
    """
    In place of a loader's get_with_context().

    :param loader: Ansible's for connection plugins
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._original = loader.get_with_context
        #: Who wants it to what is asked for to what is given.
        self._wanted: dict[str, dict[str, str]] = {}
        functools.update_wrapper(self, self._original)

    def __call__(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the loader has, of the plugin that is to be given for this name."""
        given = self._given(name)
        found = self._original(given, *args, **kwargs)
        if given != name and getattr(found, "object", None) is not None:
            # Or each item of a loop would have a connection of its own, this being another's.
            known = getattr(found.object, "ansible_aliases", None) or []
            found.object.ansible_aliases = [*known, *(prefix + name for prefix in PREFIXES)]
        return found

    def want(self, who: str, stock: list[str]) -> None:
        """
        Have ours given for stock plugins.

        A name that we have no plugin for is left alone, with a warning: it is a user's setting.

        :param who: the way in, that will say when it does not want it any more
        :param stock: names of stock plugins, as `docker` or as `community.docker.docker`
        """
        names = {}
        for name in stock:
            kind = method_options.kind_of(name) or name
            ours = find(self._loader, "connection", kind)
            if ours is None:
                text = "mitogen.ansible: redirect: there is no plugin of ours for connection '%s'"
                display.warning(text % name)
                continue
            # Here, rather than in each worker, it is imported.
            self._original(ours, class_only=True)
            row = method_options.KINDS.get(kind)
            known = [prefix + kind for prefix in PREFIXES] + (row.stock if row else [])
            names.update(dict.fromkeys([name, *known], ours))
        self._wanted[who] = names

    def unwant(self, who: str) -> None:
        """End what a way in wanted; nothing happens if it wanted nothing."""
        self._wanted.pop(who, None)

    def _given(self, name: Any) -> Any:
        for names in self._wanted.values():
            if name in names:
                return names[name]
        if self._wanted and str(name).startswith(OLD_PREFIX):
            return find(self._loader, "connection", str(name)[len(OLD_PREFIX) :]) or name
        return name


def redirection(loader: Any) -> Redirection:
    """Return the one Redirection of a loader, put in place if need be."""
    if not isinstance(loader.get_with_context, Redirection):
        loader.get_with_context = Redirection(loader)
    found: Redirection = loader.get_with_context
    return found
