"""
The choice of connection plugins by name: mitogen's in place of a stock one, while an entry point
requests it.

Rules
    1. One method of one loader is replaced, once: connection_loader.get_with_context().
    2. Each entry point has its own names: the callback's stay, a strategy's go when its play ends.
    3. Plugins are found as a collection, where pip installs them, else in the checkout's directory,
       which need not be in Ansible's configuration.

Threads: the main process's main one. Workers are forks of that process.
"""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

from ansible.utils.display import Display

from mitogen.ansible.plugins import option_translation

__all__ = ["Redirection", "find", "redirection"]

display = Display()

COLLECTION = "mitogen.ansible."
#: Prefix of mitogen's plugins that are named like a stock one: in a checkout, and in 0.2 and 0.3.
OLD_PREFIX = "mitogen_"
#: Prefixes of the names of each stock plugin.
PREFIXES = ("", "ansible.builtin.", "ansible.legacy.")
ROOT = str(pathlib.Path(__file__).absolute().parents[3])


def find(loader: Any, kind: str, name: str) -> str | None:
    """
    Return the name by which a loader finds a plugin of mitogen's; None if it doesn't.

    :param loader: Ansible's loader of that kind of plugin
    :param kind: name of its directory, such as `connection`
    :param name: the plugin's name in mitogen's collection
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
    Replacement of a loader's get_with_context().

    :param loader: Ansible's loader of connection plugins
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._original = loader.get_with_context
        #: Entry point to its replacements: requested name to name of mitogen's plugin.
        self._replacements: dict[str, dict[str, str]] = {}
        functools.update_wrapper(self, self._original)

    def __call__(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loader's result for a name or its replacement."""
        given = self._replacement(name)
        found = self._original(given, *args, **kwargs)
        if given != name and getattr(found, "object", None) is not None:
            # Otherwise the name would not match, and each item of a loop would connect again.
            known = getattr(found.object, "ansible_aliases", None) or []
            found.object.ansible_aliases = [*known, *(prefix + name for prefix in PREFIXES)]
        return found

    def add(self, entry_point: str, stock: list[str]) -> None:
        """
        Replace stock plugins by mitogen's.

        A name without a plugin of mitogen's is left alone, with a warning: it is a user's setting.

        :param entry_point: name of the caller, for remove()
        :param stock: names of stock plugins, such as `docker` or `community.docker.docker`
        """
        names = {}
        for name in stock:
            kind = option_translation.kind_of(name) or name
            ours = find(self._loader, "connection", kind)
            if ours is None:
                text = "mitogen.ansible: redirect: mitogen has no plugin for connection '%s'"
                display.warning(text % name)
                continue
            # Imports it here, rather than in each worker.
            self._original(ours, class_only=True)
            row = option_translation.KINDS.get(kind)
            known = [prefix + kind for prefix in PREFIXES] + (row.stock if row else [])
            names.update(dict.fromkeys([name, *known], ours))
        self._replacements[entry_point] = names

    def remove(self, entry_point: str) -> None:
        """Remove the replacements of an entry point, if any."""
        self._replacements.pop(entry_point, None)

    def _replacement(self, name: Any) -> Any:
        for names in self._replacements.values():
            if name in names:
                return names[name]
        if self._replacements and str(name).startswith(OLD_PREFIX):
            return find(self._loader, "connection", str(name)[len(OLD_PREFIX) :]) or name
        return name


def redirection(loader: Any) -> Redirection:
    """Return the Redirection of a loader; install it if needed."""
    if not isinstance(loader.get_with_context, Redirection):
        loader.get_with_context = Redirection(loader)
    found: Redirection = loader.get_with_context
    return found
