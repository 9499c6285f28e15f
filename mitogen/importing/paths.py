"""Say where modules are on the controlling machine, and whose a path or a top-level name is.

The lowest part of finder.py: the standard library's names and directories, what a directory holds,
where one module was loaded from or would be found.

Rules: nothing is ever imported, and no attribute of a module is read in a way that could run its
code: lazy modules (six.moves, importlib.util.LazyLoader) stay as lazy as they were. Import is
cheap: pkgutil and the like are imported where they are needed, typing never.

Threads: functions without state, but for one listing that is filled once; callable from any thread
but a broker's. Controlling machine only.
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
    """A module can't be sent to a child. The text says which, where it is and what to do."""


# --- what belongs to the standard library ---


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
    """Tell whether *path*, a file or directory, belongs to the standard library.

    :param path: Path on this machine.
    :returns: False for site-packages and dist-packages, which lie below the library's directory.
    """
    return path_kind(path) == STDLIB


def path_kind(path: str) -> str:
    absolute = os.path.abspath(path)
    if not _SITE_DIRECTORIES.isdisjoint(absolute.split(os.sep)):
        return INSTALLED
    return STDLIB if (absolute + os.sep).startswith(_STDLIB_DIRECTORIES) else OWN


def is_stdlib_name(modname: str) -> bool:
    """Tell whether *modname*, or the package it is in, belongs to the standard library.

    :param modname: Full name of a module.
    :returns: True also for modules that only exist on other platforms, where Python (3.10) knows
        them.
    """
    top = modname.partition(".")[0]
    if top in sys.builtin_module_names:
        return True
    names: frozenset[str] | None = getattr(sys, "stdlib_module_names", None)
    return top in (_listed_stdlib_names() if names is None else names)


_stdlib_names_by_path: set[str] = set()  # Filled once: a listing of the library, for Python 3.9.


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
        self.names: set[str] = set()  # Everything that can be imported, but no namespace packages.
        self.sources: set[str] = set()  # Those of it that have source: not extension modules.
        self.namespaces: set[str] = set()  # Directories that would do as a portion of one.


def listed(directory: str) -> Listing:
    """List a directory, or what a loader calls one; empty if that can't be done."""
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
    """List what isn't a directory: a zip file, or a path inside one."""
    if not os.path.isabs(directory) or not _in_file(directory):
        return
    import pkgutil

    for info in pkgutil.iter_modules([directory]):
        listing.names.add(info.name)
        listing.sources.add(info.name)


def _in_file(path: str) -> bool:
    """Tell whether *path* is a file, or would be inside one."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.path.isfile(path)


def children(directories: Iterable[str], fullname: str) -> list[str]:
    found: set[str] = set()
    for directory in directories:
        listing = listed(directory)
        found |= listing.names | listing.namespaces
    if fullname:
        prefix = fullname + "."
        rest = (name[len(prefix) :] for name in list(sys.modules) if name.startswith(prefix))
        found.update(name for name in rest if "." not in name)
    return sorted(found)


# --- where a module is ---


class Found:
    """Where a module is, before its source is read."""

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
        self.real_name = real_name  # The name its loader knows it by.
        self.loader = loader
        self.path = path
        self.locations = locations  # None for a module that is no package.
        self.package: str | None = None  # Set where it doesn't follow from the name.

    @property
    def is_namespace(self) -> bool:
        return (
            self.path is None and bool(self.locations) and not hasattr(self.loader, "get_filename")
        )


def attribute(module: object, name: str) -> Any:
    """Read an attribute without running code of *module*, None if it has no such.

    Modules that load themselves when touched do it in ``__getattr__`` or ``__getattribute__``.
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
    """Copy a ``__path__``, which may be computed and depend on packages that aren't loaded."""
    if locations is None:
        return None
    try:
        return [str(location) for location in locations]
    except Exception:
        return [str(location) for location in getattr(locations, "_path", ())]


def loaded(fullname: str) -> Found | None:
    """Say where a loaded module came from; None if it isn't loaded or doesn't say."""
    module = sys.modules.get(fullname)
    if module is None:
        return None
    spec = attribute(module, "__spec__")
    loader = getattr(spec, "loader", None) or attribute(module, "__loader__")
    path = attribute(module, "__file__")
    if not isinstance(path, str):
        path = spec.origin if getattr(spec, "has_location", False) else None
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
    except (KeyError, ModuleNotFoundError):  # The second one is 3.15's.
        # A namespace package asks its package for __path__, which isn't loaded.
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        below = [os.path.join(each, name.rpartition(".")[2]) for each in path or ()]
        spec.submodule_search_locations = [each for each in below if os.path.isdir(each)]
    if spec is not None:
        return spec
    for finder in filter(_is_tame, list(sys.meta_path)):
        try:
            spec = finder.find_spec(name, path, None)
        except Exception:  # Others' code: whatever it raises, it hasn't found the module.
            continue
        if spec is not None:
            return spec
    return None


def _is_tame(finder: Any) -> bool:
    """Tell whether it's of use to ask this finder; setuptools' one for distutils imports things."""
    if finder in (
        importlib.machinery.PathFinder,
        importlib.machinery.BuiltinImporter,
        importlib.machinery.FrozenImporter,
    ):
        return False
    return hasattr(finder, "find_spec") and type(finder).__module__ != "_distutils_hack"
