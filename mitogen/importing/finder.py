"""Find the source and the imports of modules on the controlling machine.

One job: map a module's name to a :class:`Module`, and a module to those it imports. paths.py
locates and classifies modules; graph.py orders them.

Rules:

* No module is ever imported, and no attribute of a module is read in a way that could run its code:
  lazy modules (six.moves, importlib.util.LazyLoader) stay lazy.
* Loaded modules win over search results: a child gets the code that the program runs.
* The choice between the program's copy of a module and the target's is made per top-level name, for
  a namespace package per portion (docs: "Importing"). The standard library is always the target's.
* Importing this module is cheap: ast, pkgutil and the like are imported on first use, typing never.

Threads: :class:`ModuleFinder` may be used from any thread except a broker's. One lock guards its
caches; it is not held while files are read, except to list the program's own names. Controlling
machine only.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys

from mitogen.importing.graph import Closure, OwnNames, imported_names, imports_in, parsed, relative
from mitogen.importing.paths import (
    EXTENSIONS,
    INSTALLED,
    MITOGEN,
    OWN,
    STDLIB,
    Found,
    ModuleUnservable,
    attribute,
    children,
    is_stdlib_name,
    is_stdlib_path,
    loaded,
    path_kind,
    searched,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType
    from typing import Any, NoReturn

    from mitogen.importing.graph import Import

    # A result of the older interface: path, source, and whether the module is a package.
    Source = tuple[str | None, bytes | None, bool | None]
    ListImports = Callable[[CodeType], Iterable[Import]]

__all__ = [
    "DefectivePython3xMainMethod",
    "FinderMethod",
    "Module",
    "ModuleFinder",
    "ModuleUnservable",
    "ParentImpEnumerationMethod",
    "ParentSpecEnumerationMethod",
    "PkgutilMethod",
    "SysModulesMethod",
    "get_child_modules",
    "is_stdlib_name",
    "is_stdlib_path",
    "neutralize_main",
]

_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_LINE_END = re.compile(rb"(?<=\n)|(?<=\r)(?!\n)")


class Module:
    """A module that can be served.

    :ivar fullname: Full name, with the names of its packages.
    :ivar path: Path of the source, for tracebacks; of the first portion for a namespace package.
    :ivar source: Source as found on disk, in its own encoding; None for a namespace package.
    :ivar is_pkg: True for a package, also a namespace package.
    :ivar is_namespace: True for a package without a file of its own.
    :ivar submodules: Full names of a package's direct submodules.
    :ivar kind: ``"own"``, ``"installed"`` or ``"mitogen"``. (``"stdlib"`` is never served.)
    :ivar package: Base of relative imports in the module, its ``__package__``.
    """

    __slots__ = (
        "fullname",
        "is_namespace",
        "is_pkg",
        "kind",
        "package",
        "path",
        "source",
        "submodules",
    )

    def __init__(
        self,
        fullname: str,
        path: str,
        source: bytes | None,
        is_pkg: bool,
        kind: str,
        is_namespace: bool = False,
        submodules: tuple[str, ...] = (),
        package: str | None = None,
    ) -> None:
        self.fullname = fullname
        self.path = path
        self.source = source
        self.is_pkg = is_pkg
        self.kind = kind
        self.is_namespace = is_namespace
        self.submodules = submodules
        if package is None:
            package = fullname if is_pkg else fullname.rpartition(".")[0]
        self.package = package

    def __repr__(self) -> str:
        return f"Module({self.fullname!r}, {self.path!r}, kind={self.kind!r})"


def get_child_modules(path: str, fullname: str = "") -> list[str]:
    """List the modules directly below a package, without the package's name.

    :param path: Path of the package's ``__init__.py``.
    :param fullname: The package's name; loaded submodules of that name are listed too.
    :returns: Sorted names, including namespace packages and extension modules.
    """
    return children([os.path.dirname(path)], fullname)


# --- reading source ---

# Reasons why a module can't be served, each with a remedy.
_BYTECODE_ONLY = "only bytecode was found (%s), no source. Put the .py file beside it."
_EXTENSION_MODULE = (
    "%s is a C extension module, which only works on the machine it was built for. Install it on "
    "the target, or import it on the controlling machine only."
)
_IN_STDLIB = (
    "it belongs to the standard library, and each target uses its own. If it is a module of your "
    "program, rename it."
)
_MADE_AT_RUN_TIME = (
    "it was made at run time and has no source. Import the module that makes it, or pass its "
    "source to add_source_override()."
)
_MAIN_WITHOUT_FILE = (
    "the program was typed in, piped in or given with -c, so it has no file. Put the functions to "
    "call into a module, or run the program from a file."
)
_MAIN_WITHOUT_GUARD = (
    "%s has no \"if __name__ == '__main__':\", so importing it in a child would run the whole "
    "program again. Put the code that starts the program below such a line, or move the functions "
    "to call into a module of their own."
)
_NOT_FOUND = (
    "it was not found in sys.path on the controlling machine. Install it there or on the target."
)
_UNREADABLE = "its source %s can't be read. Check that the file still exists."


def _refuse(fullname: str, path: str | None, reason: str) -> NoReturn:
    raise ModuleUnservable(
        "cannot send module %r to a child: %s" % (fullname, reason), name=fullname, path=path
    )


def _read(found: Found) -> tuple[str, bytes]:
    """Return the path and source of a module; raise :class:`ModuleUnservable` if it has none."""
    path, loader = found.path, found.loader
    if loader in (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter):
        _refuse(found.fullname, path, "it is built into Python, so each target has its own.")
    if path is not None and path.endswith(EXTENSIONS):
        _refuse(found.fullname, path, _EXTENSION_MODULE % path)
    source_path = path[:-1] if path is not None and path.endswith(".pyc") else path
    source = None if source_path is None else _read_file(loader, source_path)
    if source is None:
        source = _read_source(loader, found.real_name)
    if source is not None:
        return source_path or "<%s>" % found.fullname, source
    if path is None:
        _refuse(found.fullname, path, _MADE_AT_RUN_TIME)
    reason = _BYTECODE_ONLY if path.endswith(".pyc") else _UNREADABLE
    _refuse(found.fullname, path, reason % path)


def _read_file(loader: Any, path: str) -> bytes | None:
    """Read a file, preferably through its loader, which can read from a zip file."""
    get_data = getattr(loader, "get_data", None)
    if get_data is not None:
        try:
            data = get_data(path)
            if isinstance(data, bytes):
                return data
        except Exception:  # A third-party loader may raise anything; the file may still exist.
            pass
    try:
        with open(path, "rb") as fp:
            return fp.read()
    except OSError:
        return None


def _read_source(loader: Any, name: str) -> bytes | None:
    """Get the source from a loader as text, and encode it as it was on disk."""
    try:
        source = loader.get_source(name)
        return source.encode(_encoding(source)) if isinstance(source, str) else None
    except Exception:  # No such method, a third-party loader's error, or an unknown encoding.
        return None


def _encoding(source: str) -> str:
    """Return the encoding that *source* declares (PEP 263), or UTF-8."""
    for line in source.split("\n", 2)[:2]:
        found = _CODING.match(line)
        if found:
            return found.group(1)
        if line.strip() and not line.lstrip().startswith("#"):
            break
    return "utf-8"


def _code(loader: Any, path: str, source: bytes) -> CodeType | None:
    """Return the code of *source*, compiled or from Python's cache; None on a syntax error."""
    try:
        if type(loader) is importlib.machinery.SourceFileLoader and loader.path == path:
            # Ten times as fast as compiling, where the .pyc is up to date.
            return loader.get_code(loader.name)
        return compile(source, path, "exec", dont_inherit=True)
    except (ImportError, OSError, SyntaxError, ValueError):
        return None


# --- the main program ---


def neutralize_main(path: str, source: bytes | str) -> bytes | str:
    """Cut the source of a main program so that a child can import it without running it.

    Everything from its ``if __name__ == "__main__":`` on is dropped. A program without that guard
    is returned whole if it uses ``@mitogen.main()``, which does nothing in a child.

    :param path: Path of the program, for the error.
    :param source: Source of the program.
    :returns: Source of the same type, with the same line numbers.
    :raises ModuleUnservable: The program has no guard, or is not valid Python.
    """
    import ast

    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        _refuse("__main__", path, "%s can't be parsed: %s" % (path, error))
    for node in tree.body:
        if isinstance(node, ast.If) and _is_guard(node.test):
            return _first_lines(source, node.lineno - 1)
    if not any(map(_uses_mitogen_main(tree.body), tree.body)):
        _refuse("__main__", path, _MAIN_WITHOUT_GUARD % path)
    return source


def _first_lines(source: bytes | str, count: int) -> bytes | str:
    if isinstance(source, str):
        cut = _first_lines(source.encode("utf-8", "surrogatepass"), count)
        assert isinstance(cut, bytes)
        return cut.decode("utf-8", "surrogatepass")
    return b"".join(_LINE_END.split(source)[:count])


def _is_guard(test: Any) -> bool:
    """Return whether an expression is ``__name__ == "__main__"``, or an ``and`` with it."""
    if type(test).__name__ == "BoolOp" and type(test.op).__name__ == "And":
        return any(map(_is_guard, test.values))
    if type(test).__name__ != "Compare" or [type(op).__name__ for op in test.ops] != ["Eq"]:
        return False
    sides = (test.left, test.comparators[0])
    names = [getattr(side, "id", None) for side in sides]
    values = [getattr(side, "value", None) for side in sides]
    return "__name__" in names and "__main__" in values


def _uses_mitogen_main(body: list[Any]) -> Callable[[Any], bool]:
    """Return a predicate: is a statement of *body* a function decorated with ``mitogen.main()``?"""
    modules, functions = {"mitogen"}, set()
    for node in body:
        for alias in getattr(node, "names", ()):
            if type(node).__name__ == "Import" and alias.name == "mitogen":
                modules.add(alias.asname or alias.name)
            elif getattr(node, "module", None) == "mitogen" and alias.name == "main":
                functions.add(alias.asname or alias.name)

    def is_main(expression: Any) -> bool:
        called = getattr(expression, "func", None)
        if getattr(called, "attr", None) == "main":
            return getattr(getattr(called, "value", None), "id", None) in modules
        return getattr(called, "id", None) in functions

    return lambda node: any(map(is_main, getattr(node, "decorator_list", ())))


def _main_spec_name() -> str | None:
    """Return the real name of a main program started with ``python -m``."""
    spec = attribute(sys.modules.get("__main__"), "__spec__")
    return getattr(spec, "name", None)


def _found_main() -> Found:
    found = loaded("__main__")
    builtin = importlib.machinery.BuiltinImporter  # Its __file__ is "<stdin>".
    if not found or not found.path or found.loader is builtin or is_stdlib_path(found.path):
        _refuse("__main__", None, _MAIN_WITHOUT_FILE)
    package = attribute(sys.modules["__main__"], "__package__")
    found.package = package if isinstance(package, str) else ""
    found.locations = None  # Normally None already, also with "python -m pkg".
    return found


# --- the older interface: ways to find a module ---


class FinderMethod:
    """One way to find the source of a module."""

    __module__ = "mitogen.master"

    def find(self, fullname: str) -> tuple[str, bytes, bool] | None:
        """Return the path, the source and whether it's a package; None if not found.

        :param fullname: Full name of a module.
        """
        found = self.locate(fullname)
        if found is None:
            return None
        if found.is_namespace:
            return (found.locations or [""])[0], b"", True
        try:
            path, source = self._read(found)
        except ModuleUnservable:
            return None
        return path, source, found.locations is not None

    def locate(self, fullname: str) -> Found | None:
        """Return the place of a module, or None if this method can't find it."""
        raise NotImplementedError

    def _read(self, found: Found) -> tuple[str, bytes]:
        return _read(found)

    def __repr__(self) -> str:
        return "%s()" % type(self).__name__


class DefectivePython3xMainMethod(FinderMethod):
    """Finder of ``__main__``, which has no spec when a file is run. (The name is historical.)"""

    def locate(self, fullname: str) -> Found | None:
        try:
            return _found_main() if fullname == "__main__" else None
        except ModuleUnservable:
            return None


class PkgutilMethod(FinderMethod):
    """Finder of loaded modules by their loader. (The name is historical.)"""

    __module__ = "mitogen.master"

    def locate(self, fullname: str) -> Found | None:
        found = loaded(fullname)
        if found is None or found.loader is None or found.real_name != fullname:
            return None
        return found


class SysModulesMethod(FinderMethod):
    """Finder of loaded modules by their ``__file__`` or ``__path__``."""

    __module__ = "mitogen.master"

    def locate(self, fullname: str) -> Found | None:
        found = loaded(fullname)
        return found if found is not None and found.real_name == fullname else None


class ParentSpecEnumerationMethod(FinderMethod):
    """Finder of modules that aren't loaded, starting at the nearest loaded package."""

    __module__ = "mitogen.master"

    def locate(self, fullname: str) -> Found | None:
        return searched(fullname)


class ParentImpEnumerationMethod(ParentSpecEnumerationMethod):
    """Alias of :class:`ParentSpecEnumerationMethod`, kept for compatibility."""

    __module__ = "mitogen.master"


# --- the finder ---


class ModuleFinder:
    """Finder of modules, of their imports, and of the names that are the program's own.

    :param all_imports: :func:`mitogen.imports.all_imports`, passed in rather than imported here. It
        makes :meth:`dependencies` ten times as fast; without it the source is parsed.
    """

    __module__ = "mitogen.master"

    def __init__(self, all_imports: ListImports | None = None) -> None:
        self._all_imports = all_imports
        #: Finder methods, in the order in which they are tried.
        self.get_module_methods: list[FinderMethod] = [
            DefectivePython3xMainMethod(),
            PkgutilMethod(),
            SysModulesMethod(),
            ParentSpecEnumerationMethod(),
        ]
        self._overrides: dict[str, tuple[str, bytes, bool]] = {}
        self._modifiers: dict[str, Callable[[bytes], bytes]] = {}
        self._modules: dict[str, Module] = {}
        self._imports: dict[str, list[tuple[str, bool]]] = {}
        self._kinds: dict[str, str] = {}
        self._own = OwnNames(self)
        self._main: Found | None = None

    def note_main(self, names: dict[str, Any]) -> None:
        """Serve the program that a function is part of as ``__main__``.

        A profiler, tracer or debugger that runs the program may be ``sys.modules["__main__"]``.

        :param names: The function's global variables.
        """
        path = names.get("__file__")
        main = getattr(sys.modules.get("__main__"), "__dict__", None)
        if names is not main and isinstance(path, str) and not is_stdlib_path(path):
            loader = names.get("__loader__")
            self._main = Found("__main__", "__main__", loader, os.path.abspath(path), None)
            self._main.package = names.get("__package__") or ""

    def add_source_override(
        self, fullname: str, path: str, source: bytes | str, is_pkg: bool
    ) -> None:
        """Serve the given source instead of the module that would be found.

        :param fullname: Name of the module; it may belong to the standard library.
        :param path: Path of the module, for tracebacks.
        :param source: Source of the module; text is encoded as UTF-8.
        :param is_pkg: True for a package.
        """
        if isinstance(source, str):
            source = source.encode("utf-8")
        self._overrides[fullname] = (path, source, is_pkg)
        self._forget()
        self._own.note(fullname)

    def add_source_modifier(self, fullname: str, modifier: Callable[[bytes], bytes]) -> None:
        """Change a module's source before it is served.

        :param fullname: Name of the module.
        :param modifier: Function from the source to the source to serve, called once per module.
        """
        self._modifiers[fullname] = modifier
        self._forget()

    def is_overridden(self, fullname: str) -> bool:
        """Return whether a module's source was given to add_source_override()."""
        return fullname in self._overrides

    def _forget(self) -> None:
        self._modules.clear()
        self._imports.clear()

    def find(self, fullname: str) -> Module:
        """Return a module that can be served.

        :param fullname: Full name of a module.
        :raises ModuleUnservable: It isn't found, belongs to the standard library, or has no source.
        """
        module = self._modules.get(fullname)
        if module is None:
            module = self._overridden(fullname) or self._find(fullname)
            self._modules[fullname] = module
        return module

    def _overridden(self, fullname: str) -> Module | None:
        if fullname not in self._overrides:
            return None
        path, source, is_pkg = self._overrides[fullname]
        source = self._modified(fullname, source)
        below = self._submodules(fullname, [os.path.dirname(path)]) if is_pkg else ()
        kind = MITOGEN if fullname.partition(".")[0] == MITOGEN else OWN
        return Module(fullname, path, source, is_pkg, kind, submodules=below)

    def _find(self, fullname: str) -> Module:
        found = self.locate(fullname)
        kind = self.kind(fullname)
        if kind == STDLIB:
            _refuse(fullname, None if found is None else found.path, _IN_STDLIB)
        if found is None or kind is None:
            self._refuse_missing(fullname)
        below: tuple[str, ...] = ()
        if found.locations is not None:
            below = self._submodules(fullname, found.locations)
        if found.is_namespace:
            assert found.locations
            return Module(fullname, found.locations[0], None, True, kind, True, below)
        path, source = self._source(found)
        is_pkg = found.locations is not None
        return Module(fullname, path, source, is_pkg, kind, False, below, found.package)

    def _refuse_missing(self, fullname: str) -> NoReturn:
        missing = sys.modules.get(fullname) is None
        _refuse(fullname, None, _NOT_FOUND if missing else _MADE_AT_RUN_TIME)

    def locate(self, fullname: str) -> Found | None:
        """Return the place of a module. Aliases of loaded modules are looked up last."""
        if fullname == "__main__":
            return self._main or _found_main()
        if not all(fullname.split(".")) or not set("/\\\0").isdisjoint(fullname):
            return None
        for method in self.get_module_methods:
            found = method.locate(fullname)
            if found is not None:
                return found
        return loaded(fullname)

    def _source(self, found: Found) -> tuple[str, bytes]:
        path, source = _read(found)
        if self._is_main(found.fullname):
            cut = neutralize_main(path, source)
            assert isinstance(cut, bytes)
            source = cut
        return path, self._modified(found.fullname, source)

    def _modified(self, fullname: str, source: bytes) -> bytes:
        modifier = self._modifiers.get(fullname)
        return source if modifier is None else modifier(source)

    @staticmethod
    def _is_main(fullname: str) -> bool:
        """Return whether this is the main program, maybe under the name given to ``python -m``."""
        if fullname == "__main__":
            return True
        return fullname == _main_spec_name() and fullname not in sys.modules

    def _submodules(self, fullname: str, locations: list[str]) -> tuple[str, ...]:
        names = {"%s.%s" % (fullname, name) for name in children(locations, fullname)}
        names.update(n for n in self._overrides if n.rpartition(".")[0] == fullname)
        return tuple(sorted(names))

    def get_module_source(self, fullname: str) -> Source:
        """Return the path, the source and whether it's a package, or three times None.

        :param fullname: Full name of a module. The source of a namespace package is empty.
        """
        try:
            module = self.find(fullname)
        except ModuleUnservable:
            return None, None, None
        return module.path, module.source or b"", module.is_pkg

    # --- kinds of modules ---

    def kind(self, fullname: str) -> str | None:
        """Classify a module as ``"own"``, ``"installed"``, ``"stdlib"`` or ``"mitogen"``.

        The top-level name decides; below a namespace package it is the first package or module that
        has a file. A namespace package with portions of several kinds is ``"installed"``.

        :param fullname: Full name of a module.
        :returns: The kind, or None if the module isn't found.
        """
        top = fullname.partition(".")[0]
        if top == MITOGEN:
            return MITOGEN
        if top == "__main__" or fullname in self._overrides:
            return OWN
        if is_stdlib_name(top):
            return STDLIB
        return self._kinds.get(top) or self._found_kind(fullname)

    def _found_kind(self, fullname: str) -> str | None:
        name, _, rest = fullname.partition(".")
        found = self.locate(name)
        while rest and found is not None and found.is_namespace:
            part, _, rest = rest.partition(".")
            name += "." + part
            found = self.locate(name)
        if found is None:
            return None
        if found.is_namespace:
            kinds = set(map(path_kind, found.locations or ()))
            return kinds.pop() if len(kinds) == 1 else INSTALLED
        kind = OWN if found.path is None else path_kind(found.path)
        if name in sys.modules and "." not in name:
            self._kinds[name] = kind
        return kind

    def own_names(self) -> list[str]:
        """Return the names of the program's own modules, sorted.

        These are the top-level names that are loaded, or that lie in entries of ``sys.path`` other
        than the standard library's and site-packages; for a namespace package that is only partly
        the program's own, the full names of its own portions. ``mitogen`` and extension modules are
        left out.
        """
        return sorted(self._own.since(0)[0])

    def own_names_since(self, mark: int) -> tuple[list[str], int]:
        """Return the own names found since an earlier call, so that a child can be updated.

        :param mark: The mark returned by the earlier call; 0 for all names.
        :returns: The names, in the order in which they were found, and the mark for the next call.
        """
        return self._own.since(mark)

    # --- imports of a module ---

    def possible_imports(self, fullname: str) -> list[str]:
        """List all names in a module's import statements, whether they are loaded here or not.

        :param fullname: Full name of a module.
        :returns: Full names in order, some of which may be attributes rather than modules. The
            standard library is left out.
        :raises ModuleUnservable: See :meth:`find`.
        """
        return [name for name, _ in self._imported(fullname)]

    def dependencies(self, fullname: str) -> list[str]:
        """List the modules that a module imports directly, also inside functions.

        :param fullname: Full name of a module.
        :returns: Full names in order, a package before the modules imported from it; only modules
            that are loaded in this process and not in the standard library.
        :raises ModuleUnservable: See :meth:`find`.
        """
        return [name for name, _ in self.dependencies_by_scope(fullname)]

    def dependencies_by_scope(self, fullname: str) -> list[tuple[str, bool]]:
        """Return :meth:`dependencies`, each with a flag: imported inside functions only."""
        return [
            (name, in_function)
            for name, in_function in self._imported(fullname)
            if sys.modules.get(name) is not None and self.kind(name) != STDLIB
        ]

    def _imported(self, fullname: str) -> list[tuple[str, bool]]:
        """List the possible imports of a module, each with whether it's inside functions only."""
        imported = self._imports.get(fullname)
        if imported is None:
            found: dict[str, bool] = {}
            module = self.find(fullname)
            for name, in_function in imported_names(module.package, self._listed(module)):
                if name != fullname and not is_stdlib_name(name):
                    found[name] = found.get(name, True) and in_function
            imported = self._imports[fullname] = list(found.items())
        return imported

    def _listed(self, module: Module) -> Iterable[Import]:
        """Return the import statements of a module."""
        name, source = module.fullname, module.source
        if not source:
            return ()
        if self._all_imports is None:
            return imports_in(parsed(source))
        loader = None
        if name not in self._overrides and name not in self._modifiers and not self._is_main(name):
            found = self.locate(name)
            loader = None if found is None else found.loader
        code = _code(loader, module.path, source)
        return () if code is None else self._all_imports(code)

    def closure(
        self, fullnames: Iterable[str], want: Callable[[str], bool] | None = None
    ) -> list[str]:
        """List modules and everything they import, in an order in which they can be imported.

        Imports inside functions come last. In a circle of imports, one module comes too early.

        :param fullnames: Full names to start with.
        :param want: Predicate on a full name; the imports of an unwanted module are not followed.
        :returns: Full names of modules that :meth:`find` returns, each once: a package before its
            contents, a module after its import-time imports where that is possible.
        """
        walk = Closure(self, want)
        walk.add(fullnames)
        return walk.order

    def find_related_imports(self, fullname: str) -> list[str]:
        """Return :meth:`dependencies`, or an empty list for a module that can't be served.

        :param fullname: Full name of a module.
        """
        try:
            return self.dependencies(fullname)
        except ModuleUnservable:
            return []

    def find_related(self, fullname: str) -> list[str]:
        """List the direct and indirect imports of a module; see :meth:`closure`.

        :param fullname: Full name of a module; it is not part of the result.
        """
        return [name for name in self.closure([fullname]) if name != fullname]

    def resolve_relpath(self, fullname: str, level: int) -> str:
        """Return the prefix of a name in a ``from ... import`` with *level* dots.

        :param fullname: Full name of the importing module.
        :param level: Number of dots.
        :returns: A package's name and a dot; ``""`` for level 0 or if there is no such package.
        """
        if not level:
            return ""
        try:
            package = self.find(fullname).package
        except ModuleUnservable:
            package = fullname.rpartition(".")[0]
        base = relative(package, level)
        return base + "." if base else ""

    def generate_parent_names(self, fullname: str) -> Iterator[str]:
        """Yield the names of the packages that contain *fullname*, the nearest first."""
        while "." in fullname:
            fullname = fullname.rpartition(".")[0]
            yield fullname
