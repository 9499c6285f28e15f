"""Analyze the imports of modules: their names, their order, and which are the program's own.

A part of finder.py: the classes here query its ModuleFinder for places and contents of modules.

Rules: no module is ever imported. Imports inside functions are ordered after those needed at import
time. The list of own names only grows.

Threads: the functions have no state; the lock of :class:`OwnNames` is held while directories are
listed; a :class:`Closure` belongs to one thread. Never call this on a broker thread. Controlling
machine only.
"""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType

from mitogen.importing.paths import (
    EXTENSIONS,
    MITOGEN,
    OWN,
    STDLIB,
    Listing,
    ModuleUnservable,
    attribute,
    is_stdlib_name,
    listed,
    path_kind,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from mitogen.importing.finder import ModuleFinder

    # One import: number of leading dots, module's name, names after "import", whether it is in a
    # function.
    Import = tuple[int, str, tuple[str, ...], bool]

__all__ = ["Closure", "OwnNames", "imported_names", "imports_in", "parsed", "relative"]


def parsed(source: bytes) -> list[Any]:
    """Return the statements of *source*, or none on a syntax error."""
    import ast

    try:
        return list(ast.parse(source).body)
    except (SyntaxError, ValueError):
        return []


def imports_in(statements: list[Any]) -> Iterator[Import]:
    """Yield the imports in *statements*, nested ones too, in the form of imports.all_imports()."""
    pending = [(statement, False) for statement in reversed(statements)]
    while pending:
        node, in_function = pending.pop()
        kind = type(node).__name__
        if kind == "Import":
            yield from ((0, alias.name, (), in_function) for alias in node.names)
        elif kind == "ImportFrom":
            names = tuple(alias.name for alias in node.names)
            yield node.level, node.module or "", names, in_function
        in_function = in_function or kind in ("FunctionDef", "AsyncFunctionDef")
        typing_only = kind == "If" and _name(node.test) in ("MYPY", "TYPE_CHECKING")
        for field in ("finalbody", "orelse", "handlers", "cases", "body"):
            inner = () if typing_only and field == "body" else getattr(node, field, ())
            if isinstance(inner, list):
                pending.extend((each, in_function) for each in reversed(inner))


def _name(node: Any) -> str:
    """Return the identifier of a name or attribute expression; an empty string for others."""
    return str(getattr(node, "attr", getattr(node, "id", "")))


def relative(package: str, level: int) -> str:
    """Return the package denoted by *level* dots in a module of *package*, or an empty string."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1]) if level <= len(parts) else ""


def imported_names(package: str, listed: Iterable[Import]) -> Iterator[tuple[str, bool]]:
    """Yield the full names imported in a module of *package*; some may not be modules."""
    for level, modname, names, in_function in listed:
        base = modname
        if level:
            above = relative(package, level)
            if not above:
                continue
            base = above + "." + modname if modname else above
        dot = base.find(".")
        while dot > 0:
            yield base[:dot], in_function
            dot = base.find(".", dot + 1)
        yield base, in_function
        for name in names:
            yield base + "." + name, in_function


class Closure:
    """A walk through the import graph. It does not recurse: chains of imports can be long."""

    def __init__(self, finder: ModuleFinder, want: Callable[[str], bool] | None) -> None:
        self.order: list[str] = []
        self._finder = finder
        self._want = want
        self._entered: set[str] = set()
        self._accepted: set[str] = set()  # Entered, wanted and found.
        self._emitted: set[str] = set()
        self._later: list[str] = []  # Imports inside functions, walked last.

    def add(self, fullnames: Iterable[str]) -> None:
        """Walk the import graph from *fullnames* and append the modules found to `order`."""
        self._walk(list(fullnames))
        while self._later:
            later, self._later = self._later, []
            self._walk(later)

    def _walk(self, fullnames: list[str]) -> None:
        tasks = [(self._enter, name) for name in reversed(fullnames)]
        while tasks:
            task, name = tasks.pop()
            tasks.extend(reversed(task(name)))

    def _enter(self, name: str) -> list[tuple[Callable[[str], Any], str]]:
        if name in self._entered:
            return []
        self._entered.add(name)
        if self._want is not None and not self._want(name):
            return []
        try:
            dependencies = self._finder.dependencies_by_scope(name)
        except ModuleUnservable:
            return []
        self._accepted.add(name)
        before = list(self._finder.generate_parent_names(name))[::-1]
        after = []
        for dependency, in_function in dependencies:
            if in_function:
                self._later.append(dependency)
            elif dependency.startswith(name + "."):
                after.append(dependency)
            else:
                before.append(dependency)
        return [
            *((self._enter, dependency) for dependency in before),
            (self._emit, name),
            *((self._enter, dependency) for dependency in after),
        ]

    def _emit(self, name: str) -> tuple[()]:
        for each in [*list(self._finder.generate_parent_names(name))[::-1], name]:
            if each in self._accepted and each not in self._emitted:
                self._emitted.add(each)
                self.order.append(each)
        return ()


class OwnNames:
    """The growing list of the program's own names."""

    def __init__(self, finder: ModuleFinder) -> None:
        self._finder = finder
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}  # In the order in which they were found; only grows.
        self._seen: set[str] = set()  # Names in sys.modules that were examined.
        self._mixed: set[str] = set()  # Namespace packages with portions that aren't own.
        self._entry_kinds: dict[str, str] = {}
        self._state: list[tuple[str, int]] = []  # Entries of sys.path with their mtimes, in ns.
        self._listings: dict[tuple[str, int], Listing] = {}

    def since(self, mark: int) -> tuple[list[str], int]:
        """Return the names after *mark*, and the mark after the last one."""
        with self._lock:
            self._look_at_modules()
            self._look_at_path()
            names = list(self._names)
        return names[mark:], len(names)

    def note(self, name: str) -> None:
        """Add a name, unless its whole top-level package is on the list."""
        top = name.partition(".")[0]
        if top != MITOGEN and top not in self._names:
            self._names[name] = None

    def _look_at_modules(self) -> None:
        new = set(sys.modules) - self._seen
        self._seen |= new
        for name in sorted(new):  # Sorted: a package comes before its contents.
            top = name.partition(".")[0]
            if top != name:
                if top in self._mixed:
                    self._look_at_portion(name)
            elif name == "__main__":
                self.note(name)
            elif name.startswith("__editable__"):
                self._look_at_mapping(sys.modules.get(name))
            elif not name.startswith("__") and not is_stdlib_name(name):
                self._look_at(name)

    def _look_at(self, name: str) -> None:
        """Add a top-level name if it's own and can be served."""
        found = self._finder.locate(name)
        if found is None or (found.path or "").endswith(EXTENSIONS):
            return
        kind = self._finder.kind(name)
        if kind == OWN:
            self.note(name)
        elif found.is_namespace:
            self._mixed.add(name)
            for location in found.locations or ():
                if path_kind(location) == OWN:
                    listing = listed(location)
                    for child in sorted(listing.sources | listing.namespaces):
                        self._look_at_portion("%s.%s" % (name, child))

    def _look_at_portion(self, fullname: str) -> None:
        """Add a module below a namespace package, or the package around it, if it's own."""
        for name in [*list(self._finder.generate_parent_names(fullname))[::-1], fullname][1:]:
            if name in self._names:
                return
            if self._finder.kind(name) == OWN:
                self.note(name)
                return

    def _look_at_mapping(self, module: ModuleType | None) -> None:
        """Add the names in the mapping of an editable install by setuptools, loaded or not."""
        mapping = attribute(module, "MAPPING")
        for name in mapping if isinstance(mapping, dict) else ():
            if not is_stdlib_name(name) and self._finder.kind(name) == OWN:
                self.note(name)

    def _look_at_path(self) -> None:
        """Add the modules in the program's own entries of ``sys.path``."""
        state = self._path_state()
        if state == self._state:
            return
        self._state = state
        taken: set[str] = set()  # An earlier entry wins, even one of site-packages.
        for entry, changed in state:
            listing = self._listings.get((entry, changed))
            if listing is None:
                listing = self._listings[entry, changed] = listed(entry)
            if self._entry_kinds[entry] == OWN:
                for name in sorted(listing.sources - taken - self._seen):
                    if not name.startswith("__") and not is_stdlib_name(name):
                        self.note(name)
            taken |= listing.names

    def _path_state(self) -> list[tuple[str, int]]:
        """Return the relevant entries, up to the last own one, each with its mtime in ns."""
        state, length = [], 0
        entries: list[object] = list(sys.path)
        for entry in entries:
            if not isinstance(entry, str):
                continue
            entry = os.path.abspath(entry)
            kind = self._entry_kinds.get(entry)
            if kind is None:
                kind = self._entry_kinds[entry] = path_kind(entry)
            if kind != STDLIB:
                try:
                    state.append((entry, os.stat(entry).st_mtime_ns))
                except OSError:
                    continue
                if kind == OWN:
                    length = len(state)
        return state[:length]
