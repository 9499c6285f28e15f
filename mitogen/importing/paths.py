"""Locate modules on the controlling machine, and classify paths and top-level names.

The lowest part of finder.py: names and directories of the standard library, listings of
directories, the place from which a module was or would be loaded.

Rules: no module is ever imported, and no attribute of a module is read in a way that could run its
code: lazy modules (six.moves, importlib.util.LazyLoader) stay lazy. Importing this module is cheap:
pkgutil and the like are imported on first use, typing never.

Threads: functions without state, except for one listing that is filled once; callable from any
thread except a broker's. Controlling machine only.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

__all__ = [
    "Found",
    "Listing",
    "ModuleUnservable",
    "attribute",
    "children",
    "is_stdlib_name",
    "is_stdlib_path",
    "listed",
    "loaded",
    "path_kind",
    "searched",
]

OWN = "own"
INSTALLED = "installed"
STDLIB = "stdlib"
MITOGEN = "mitogen"

EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_SITE_DIRECTORIES = frozenset(["site-packages", "dist-packages"])
_SUFFIXES = tuple(importlib.machinery.all_suffixes())


class ModuleUnservable(ImportError):
    """A module can't be sent to a child. The message names it, its path, and a remedy."""


# --- the standard library ---


def _stdlib_directories() -> tuple[str, ...]:
    version = "%d.%d" % sys.version_info[:2]
    library = os.path.dirname(os.__file__)
    platform_library = os.path.join(
        sys.base_exec_prefix, getattr(sys, "platlibdir", "lib"), "python" + version
    )
    archive = os.path.join(sys.base_prefix, "lib", "python%s.zip" % version.replace(".", ""))
    found = {library, os.path.realpath(library), platform_library, archive}
    return tuple(sorted(path + os.sep for path in found))


_STDLIB_DIRECTORIES = _stdlib_directories()


def is_stdlib_path(path: str) -> bool:
    """Return whether *path*, a file or directory, belongs to the standard library.

    :param path: Path on this machine.
    :returns: False for site-packages and dist-packages, which lie below the library's directory.
    """
    return path_kind(path) == STDLIB


def path_kind(path: str) -> str:
    """Return the kind of modules at *path*: STDLIB, INSTALLED or OWN."""
    absolute = os.path.abspath(path)
    if not _SITE_DIRECTORIES.isdisjoint(absolute.split(os.sep)):
        return INSTALLED
    return STDLIB if (absolute + os.sep).startswith(_STDLIB_DIRECTORIES) else OWN


def is_stdlib_name(modname: str) -> bool:
    """Return whether *modname*, or the package it is in, belongs to the standard library.

    :param modname: Full name of a module.
    :returns: True also for modules of other platforms, if Python lists them (3.10 and later).
    """
    top = modname.partition(".")[0]
    if top in sys.builtin_module_names:
        return True
    names: frozenset[str] | None = getattr(sys, "stdlib_module_names", None)
    return top in (_listed_stdlib_names() if names is None else names)


_stdlib_names_by_path: set[str] = set()  # Filled once, by listing the library, on Python 3.9.


def _listed_stdlib_names() -> Collection[str]:
    if not _stdlib_names_by_path:
        for directory in _STDLIB_DIRECTORIES:
            for path in (directory, os.path.join(directory, "lib-dynload")):
                _stdlib_names_by_path.update(listed(path).names)
        _stdlib_names_by_path.difference_update(["test", *_SITE_DIRECTORIES])
    return _stdlib_names_by_path


# --- directories ---


class Listing:
    """The modules in one entry of a search path."""

    __slots__ = ("names", "namespaces", "sources")

    def __init__(self) -> None:
        self.names: set[str] = set()  # All importable names except namespace packages.
        self.sources: set[str] = set()  # The subset of names with source: no extension modules.
        self.namespaces: set[str] = set()  # Directories that could be a namespace portion.


def listed(directory: str) -> Listing:
    """List a directory, or an entry that an import hook handles; empty if it can't be listed."""
    listing = Listing()
    try:
        entries = list(os.scandir(directory or "."))
    except OSError:
        _list_by_importer(directory, listing)
        return listing
    for entry in entries:
        _add_entry(listing, entry)
    return listing


def _add_entry(listing: Listing, entry: os.DirEntry[str]) -> None:
    name = entry.name
    stem, dot, _ = name.partition(".")
    if not stem.isidentifier() or stem == "__pycache__":
        return
    if dot:
        if name.endswith(_SUFFIXES) and stem != "__init__":
            listing.names.add(stem)
            if name == stem + ".py":
                listing.sources.add(stem)
    elif entry.is_dir():
        if os.path.exists(os.path.join(entry.path, "__init__.py")):
            listing.names.add(stem)
            listing.sources.add(stem)
        else:
            listing.namespaces.add(stem)


def _list_by_importer(directory: str, listing: Listing) -> None:
    """List an entry that isn't a directory: a zip file, or a path inside one."""
    if not os.path.isabs(directory) or not _in_file(directory):
        return
    import pkgutil

    for info in pkgutil.iter_modules([directory]):
        listing.names.add(info.name)
        listing.sources.add(info.name)


def _in_file(path: str) -> bool:
    """Return whether *path* is a file, or would be inside one."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.isfile(path)


def children(directories: Iterable[str], fullname: str) -> list[str]:
    """List the modules in *directories*, and the loaded direct submodules of *fullname*."""
    found: set[str] = set()
    for directory in directories:
        listing = listed(directory)
        found |= listing.names | listing.namespaces
    if fullname:
        prefix = fullname + "."
        rest = (name[len(prefix) :] for name in list(sys.modules) if name.startswith(prefix))
        found.update(name for name in rest if "." not in name)
    return sorted(found)


# --- places of modules ---


class Found:
    """The place of a module, before its source is read."""

    __slots__ = ("fullname", "loader", "locations", "package", "path", "real_name")

    def __init__(
        self,
        fullname: str,
        real_name: str,
        loader: Any,
        path: str | None,
        locations: list[str] | None,
    ) -> None:
        self.fullname = fullname
        self.real_name = real_name  # The name in its spec, which its loader uses.
        self.loader = loader
        self.path = path
        self.locations = locations  # None for a module that is not a package.
        self.package: str | None = None  # Set only where it can't be derived from the name.

    @property
    def is_namespace(self) -> bool:
        return (
            self.path is None and bool(self.locations) and not hasattr(self.loader, "get_filename")
        )


def attribute(module: object, name: str) -> Any:
    """Read an attribute without running code of *module*; return None if it is missing.

    Modules that load themselves on access do so in ``__getattr__`` or ``__getattribute__``.
    """
    try:
        return object.__getattribute__(module, "__dict__")[name]
    except (AttributeError, KeyError):
        pass
    if isinstance(module, ModuleType):
        return None
    for cls in type(module).__mro__:
        if name in vars(cls):
            value = vars(cls)[name]
            return None if hasattr(type(value), "__get__") else value
    return None


def _as_list(locations: Any) -> list[str] | None:
    """Copy a ``__path__``, whose items may be computed from packages that aren't loaded."""
    if locations is None:
        return None
    try:
        return [str(location) for location in locations]
    except Exception:
        return [str(location) for location in getattr(locations, "_path", ())]


def loaded(fullname: str) -> Found | None:
    """Return the place of a loaded module; None if it isn't loaded or has no place."""
    module = sys.modules.get(fullname)
    if module is None:
        return None
    spec = attribute(module, "__spec__")
    loader = getattr(spec, "loader", None) or attribute(module, "__loader__")
    path = attribute(module, "__file__")
    if not isinstance(path, str):
        path = spec.origin if getattr(spec, "has_location", False) else None
    if path is not None:
        path = str(path)  # A debugger may have put a subclass there.
    locations = _as_list(attribute(module, "__path__"))
    name = getattr(spec, "name", None) or attribute(module, "__name__")
    if path is None and loader is None and not locations:
        return None
    return Found(fullname, name if isinstance(name, str) else fullname, loader, path, locations)


def searched(fullname: str) -> Found | None:
    """Search for a module as an import would, but without importing its packages."""
    path: list[str] | None = None
    name = ""
    spec = None
    for part in fullname.split("."):
        parent_path, name = path, (name + "." + part if name else part)
        package = loaded(name) if name != fullname else None
        if package is not None:
            path = package.locations
        else:
            spec = _find_spec(name, parent_path)
            path = None if spec is None else _as_list(spec.submodule_search_locations)
        if path is None and name != fullname:
            return None
    if spec is None:
        return None
    origin = spec.origin if spec.has_location else None
    return Found(fullname, spec.name, spec.loader, origin, path)


def _find_spec(name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
    except (KeyError, ModuleNotFoundError):  # ModuleNotFoundError since 3.15.
        # A namespace package computes its path from its parent's __path__, which isn't loaded.
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        below = [os.path.join(each, name.rpartition(".")[2]) for each in path or ()]
        spec.submodule_search_locations = [each for each in below if os.path.isdir(each)]
    if spec is not None:
        return spec
    for finder in filter(_is_searchable, list(sys.meta_path)):
        try:
            spec = finder.find_spec(name, path, None)
        except Exception:  # A third-party finder may raise anything; the module wasn't found.
            continue
        if spec is not None:
            return spec
    return None


def _is_searchable(finder: Any) -> bool:
    """Return whether to ask this finder; setuptools' finder for distutils imports modules."""
    if finder in (
        importlib.machinery.PathFinder,
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
    ):
        return False
    return hasattr(finder, "find_spec") and type(finder).__module__ != "_distutils_hack"
