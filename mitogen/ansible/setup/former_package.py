"""
The package `ansible_mitogen` as this library installs it: where configurations that were written
for 0.3 look for plugins. setup.py writes it when a wheel is built.

Programs and configurations find the strategies by `ansible_mitogen.__file__`. The plugins of an
unpacked 0.3 release do not work with this library: what they import is refused in words.

Threads: any.
"""

from __future__ import annotations

import os

__all__ = ["FILES", "is_former_release"]

_PACKAGE = '''\
"""{about}: see the documentation of mitogen, "Upgrading from mitogen 0.3"."""
'''
_REFUSED = '''\
"""A module of mitogen 0.3, refused in words: its plugins need the library of that release."""

raise ImportError(
    "%s is a module of mitogen 0.3, imported by plugins of that release; this is a later one: set "
    "strategy_plugins in ansible.cfg to %s, or remove it and run 'python -m mitogen.ansible enable'"
    % (__name__, __file__.rpartition("ansible_mitogen")[0] + "ansible_mitogen/plugins/strategy")
)
'''
#: Path of each file in the package, relative to it, to its text.
FILES = {
    "__init__.py": _PACKAGE.format(about="Plugins at their place in 0.3"),
    "plugins/__init__.py": _PACKAGE.format(about="Plugins at their place in 0.3"),
    "plugins/connection/__init__.py": _PACKAGE.format(about="The connection plugins"),
    "plugins/strategy/__init__.py": _PACKAGE.format(about="The strategies"),
    "connection.py": _REFUSED,
    "loaders.py": _REFUSED,
    "mixins.py": _REFUSED,
    "strategy.py": _REFUSED,
}


def is_former_release(directory: str) -> bool:
    """Return whether a directory of strategies belongs to an unpacked or installed 0.3 release."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(directory)))
    if os.path.basename(package) != "ansible_mitogen":
        return False
    path = os.path.join(package, "loaders.py")
    try:
        with open(path, encoding="utf-8", errors="replace") as fp:
            return "refused in words" not in fp.readline()
    except OSError:
        return False
