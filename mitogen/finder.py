"""Find the source of modules on the controlling machine, and what belongs to the program.

One job: from a module's name to a :class:`Module`, and from a module to those it imports.

Rules:

* Nothing is ever imported, and no attribute of a module is read in a way that could run its code:
  lazy modules (six.moves, importlib.util.LazyLoader) stay as lazy as they were.
* What is loaded wins over what a search would find: the child gets what the program runs.
* Whose module wins on the target is decided per top-level name, for a namespace package per portion
  (docs: "Importing"). The standard library is always the target's own.
* Import is cheap: ast, pkgutil and the like are imported where they are needed, typing never.

Threads: :class:`ModuleFinder` may be used from any thread; its caches are guarded by one lock,
which is never held while a file is read except for the list of own names. Never call it on a broker
thread. Controlling machine only.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import sys
import threading
from types import ModuleType

MYPY = False
if MYPY:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from types import CodeType
    from typing import Any, NoReturn, Optional

    # The answer of the older interface: path, source and whether it is a package.
    Source = tuple[Optional[str], Optional[bytes], Optional[bool]]
    # One import: number of leading dots, module's name, names after "import", whether in a
    # function.
    Import = tuple[int, str, tuple[str, ...], bool]
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

OWN = "own"
INSTALLED = "installed"
STDLIB = "stdlib"
MITOGEN = "mitogen"

_SITE_DIRECTORIES = frozenset(["site-packages", "dist-packages"])
_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_LINE_END = re.compile(rb"(?<=\n)|(?<=\r)(?!\n)")


class ModuleUnservable(ImportError):
    """A module can't be sent to a child. The text says which, where it is and what to do."""


class Module:
    """What is known of one module that can be served.

    :ivar fullname: Its name, with those of its packages.
    :ivar path: Path of the source, for tracebacks; of the first portion for a namespace package.
    :ivar source: Source as found on disk, in its own encoding; None for a namespace package.
    :ivar is_pkg: True for a package, also a namespace package.
    :ivar is_namespace: True for a package without a file of its own.
    :ivar submodules: Full names of a package's direct submodules.
    :ivar kind: ``"own"``, ``"installed"`` or ``"mitogen"``. (``"stdlib"`` is never served.)
    :ivar package: What relative imports in it start from, its ``__package__``.
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
    return _path_kind(path) == STDLIB


def _path_kind(path: str) -> str:
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
                _stdlib_names_by_path.update(_listed(path).names)
        _stdlib_names_by_path.difference_update(["test", *_SITE_DIRECTORIES])
    return _stdlib_names_by_path


# --- directories ---


class _Listing:
    """The modules in one entry of a search path."""

    __slots__ = ("names", "namespaces", "sources")

    def __init__(self) -> None:
        self.names: set[str] = set()  # Everything that can be imported, but no namespace packages.
        self.sources: set[str] = set()  # Those of it that have source: not extension modules.
        self.namespaces: set[str] = set()  # Directories that would do as a portion of one.


def _listed(directory: str) -> _Listing:
    """List a directory, or what a loader calls one; empty if that can't be done."""
    listing = _Listing()
    try:
        entries = list(os.scandir(directory or "."))
    except OSError:
        _list_by_importer(directory, listing)
        return listing
    for entry in entries:
        _add_entry(listing, entry)
    return listing


def _add_entry(listing: _Listing, entry: os.DirEntry[str]) -> None:
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


def _list_by_importer(directory: str, listing: _Listing) -> None:
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


def get_child_modules(path: str, fullname: str = "") -> list[str]:
    """List the modules directly below a package, without their package's name.

    :param path: Path of the package's ``__init__.py``.
    :param fullname: The package's name; loaded submodules of that name are listed too.
    :returns: Sorted names, those of namespace packages and extension modules too.
    """
    return _children([os.path.dirname(path)], fullname)


def _children(directories: Iterable[str], fullname: str) -> list[str]:
    found: set[str] = set()
    for directory in directories:
        listing = _listed(directory)
        found |= listing.names | listing.namespaces
    if fullname:
        prefix = fullname + "."
        rest = (name[len(prefix) :] for name in list(sys.modules) if name.startswith(prefix))
        found.update(name for name in rest if "." not in name)
    return sorted(found)


# --- where a module is ---


class _Found:
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


def _attribute(module: object, name: str) -> Any:
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


def _loaded(fullname: str) -> _Found | None:
    """Say where a loaded module came from; None if it isn't loaded or doesn't say."""
    module = sys.modules.get(fullname)
    if module is None:
        return None
    spec = _attribute(module, "__spec__")
    loader = getattr(spec, "loader", None) or _attribute(module, "__loader__")
    path = _attribute(module, "__file__")
    if not isinstance(path, str):
        path = spec.origin if getattr(spec, "has_location", False) else None
    locations = _as_list(_attribute(module, "__path__"))
    name = getattr(spec, "name", None) or _attribute(module, "__name__")
    if path is None and loader is None and not locations:
        return None
    return _Found(fullname, name if isinstance(name, str) else fullname, loader, path, locations)


def _searched(fullname: str) -> _Found | None:
    """Search for a module as an import would, but without importing its packages."""
    path: list[str] | None = None
    name = ""
    spec = None
    for part in fullname.split("."):
        parent_path, name = path, (name + "." + part if name else part)
        package = _loaded(name) if name != fullname else None
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
    return _Found(fullname, spec.name, spec.loader, origin, path)


def _find_spec(name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, path)
    except KeyError:  # A namespace package asks its package for __path__, which isn't loaded.
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


# --- reading source ---

# Why a module can't be served and what to do about it.
_BYTECODE_ONLY = "there is only %s and no source. Put the .py file beside it."
_EXTENSION_MODULE = (
    "%s is a C extension module, which only works on the machine it was built for. Install it on "
    "the target, or import it on the controlling machine only."
)
_IN_STDLIB = (
    "it belongs to the standard library, so each target has its own. If it is a module of the "
    "program, give it another name."
)
_MADE_AT_RUN_TIME = (
    "it was made at run time and has no source. Import what makes it, or pass its source to "
    "add_source_override()."
)
_MAIN_WITHOUT_FILE = (
    "the program was typed in, piped in or given with -c, so it has no file. Put the functions to "
    "call into a module, or into a file that is run."
)
_MAIN_WITHOUT_GUARD = (
    "%s has no \"if __name__ == '__main__':\", so to import it there would run the whole program "
    "once more. Put the code that starts the program below such a line, or move the functions to "
    "call into a module of their own."
)
_NOT_FOUND = (
    "it is not found in sys.path on the controlling machine. Install it there or on the target."
)
_UNREADABLE = "its source %s can't be read. Is the file still there?"


def _refuse(fullname: str, path: str | None, reason: str) -> NoReturn:
    raise ModuleUnservable(
        "cannot send module %r to a child: %s" % (fullname, reason), name=fullname, path=path
    )


def _read(found: _Found) -> tuple[str, bytes]:
    """Return path and source of a module; raise :class:`ModuleUnservable` where there's none."""
    path, loader = found.path, found.loader
    if loader in (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter):
        _refuse(found.fullname, path, "it is built into Python, so each target has its own.")
    if path is not None and path.endswith(_EXTENSIONS):
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
    """Read a file, through its loader where it has one that can, for those in a zip file."""
    get_data = getattr(loader, "get_data", None)
    if get_data is not None:
        try:
            data = get_data(path)
            if isinstance(data, bytes):
                return data
        except Exception:  # Another loader's code: whatever it raises, the file may still be there.
            pass
    try:
        with open(path, "rb") as fp:
            return fp.read()
    except OSError:
        return None


def _read_source(loader: Any, name: str) -> bytes | None:
    """Ask a loader for the source as text, and put that back into its encoding."""
    try:
        source = loader.get_source(name)
        return source.encode(_encoding(source)) if isinstance(source, str) else None
    except Exception:  # No such method, another loader's code failing, an unknown encoding.
        return None


def _encoding(source: str) -> str:
    """Return the encoding that *source* declares (PEP 263), so that its bytes are what they say."""
    for line in source.split("\n", 2)[:2]:
        found = _CODING.match(line)
        if found:
            return found.group(1)
        if line.strip() and not line.lstrip().startswith("#"):
            break
    return "utf-8"


def _code(loader: Any, path: str, source: bytes) -> CodeType | None:
    """Compile *source*, or take what Python has compiled; None if there's an error in it."""
    try:
        if type(loader) is importlib.machinery.SourceFileLoader and loader.path == path:
            # Ten times as fast as compiling, where the .pyc is up to date.
            return loader.get_code(loader.name)
        return compile(source, path, "exec", dont_inherit=True)
    except (ImportError, OSError, SyntaxError, ValueError):
        return None


def _parsed(source: bytes) -> list[Any]:
    """Return the statements of *source*, none if there's an error in it."""
    import ast

    try:
        return list(ast.parse(source).body)
    except (SyntaxError, ValueError):
        return []


def _imports_in(statements: list[Any]) -> Iterator[Import]:
    """Yield the imports among *statements* and those inside them; like imports.all_imports()."""
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
        for field in ("finalbody", "orelse", "handlers", "cases", "body"):
            inner = getattr(node, field, ())
            if isinstance(inner, list):
                pending.extend((each, in_function) for each in reversed(inner))


# --- the main program ---


def neutralize_main(path: str, source: bytes | str) -> bytes | str:
    """Cut the source of a main program so that a child can import it without running it.

    Everything from its ``if __name__ == "__main__":`` on is dropped. A program that has no such
    guard, but uses ``@mitogen.main()``, which does nothing in a child, is returned whole.

    :param path: Path of the program, for the error.
    :param source: Its source.
    :returns: Source of the same type, with the same line numbers.
    :raises ModuleUnservable: It has no guard, or it is no Python.
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
    """Tell whether an expression is ``__name__ == "__main__"``, perhaps with ``and ...``."""
    if type(test).__name__ == "BoolOp" and type(test.op).__name__ == "And":
        return any(map(_is_guard, test.values))
    if type(test).__name__ != "Compare" or [type(op).__name__ for op in test.ops] != ["Eq"]:
        return False
    sides = (test.left, test.comparators[0])
    names = [getattr(side, "id", None) for side in sides]
    values = [getattr(side, "value", None) for side in sides]
    return "__name__" in names and "__main__" in values


def _uses_mitogen_main(body: list[Any]) -> Callable[[Any], bool]:
    """Return a test for statements of *body*: a function decorated with ``mitogen.main()``?"""
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
    spec = _attribute(sys.modules.get("__main__"), "__spec__")
    return getattr(spec, "name", None)


def _found_main() -> _Found:
    found = _loaded("__main__")
    builtin = importlib.machinery.BuiltinImporter  # Its __file__ is "<stdin>".
    if not found or not found.path or found.loader is builtin or is_stdlib_path(found.path):
        _refuse("__main__", None, _MAIN_WITHOUT_FILE)
    package = _attribute(sys.modules["__main__"], "__package__")
    found.package = package if isinstance(package, str) else ""
    found.locations = None  # "python -m pkg" sets none, but be sure: __main__ is no package.
    return found


# --- the older interface: ways to find a module ---


class FinderMethod:
    """One way to find the source of a module."""

    def find(self, fullname: str) -> tuple[str, bytes, bool] | None:
        """Return path, source and whether it's a package, or None.

        :param fullname: Full name of a module.
        """
        found = self._locate(fullname)
        if found is None:
            return None
        if found.is_namespace:
            return (found.locations or [""])[0], b"", True
        try:
            path, source = self._read(found)
        except ModuleUnservable:
            return None
        return path, source, found.locations is not None

    def _locate(self, fullname: str) -> _Found | None:
        raise NotImplementedError

    def _read(self, found: _Found) -> tuple[str, bytes]:
        return _read(found)

    def __repr__(self) -> str:
        return "%s()" % type(self).__name__


class DefectivePython3xMainMethod(FinderMethod):
    """Find ``__main__``, which has no spec when a file is run. (The name is an old one.)"""

    def _locate(self, fullname: str) -> _Found | None:
        try:
            return _found_main() if fullname == "__main__" else None
        except ModuleUnservable:
            return None


class PkgutilMethod(FinderMethod):
    """Find a loaded module by its loader. (The name is an old one.)"""

    def _locate(self, fullname: str) -> _Found | None:
        found = _loaded(fullname)
        if found is None or found.loader is None or found.real_name != fullname:
            return None
        return found


class SysModulesMethod(FinderMethod):
    """Find a loaded module by its ``__file__`` or ``__path__``."""

    def _locate(self, fullname: str) -> _Found | None:
        found = _loaded(fullname)
        return found if found is not None and found.real_name == fullname else None


class ParentSpecEnumerationMethod(FinderMethod):
    """Find a module that isn't loaded, beginning at the nearest package that is."""

    def _locate(self, fullname: str) -> _Found | None:
        return _searched(fullname)


class ParentImpEnumerationMethod(ParentSpecEnumerationMethod):
    """The same as :class:`ParentSpecEnumerationMethod`; exists for compatibility only."""


# --- the finder ---


class ModuleFinder:
    """Finds modules, what they import, and which of them are the program's own.

    :param all_imports: :func:`mitogen.imports.all_imports`, which this module doesn't import
        itself. It makes :meth:`dependencies` ten times as fast; without it the source is parsed.
    """

    def __init__(self, all_imports: ListImports | None = None) -> None:
        self._all_imports = all_imports
        #: The ways to find a module, in the order in which they are tried.
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
        self._own = _OwnNames(self)

    def add_source_override(
        self, fullname: str, path: str, source: bytes | str, is_pkg: bool
    ) -> None:
        """Serve a given source instead of what would be found.

        :param fullname: Name of the module; may be one of the standard library.
        :param path: Path to give it, for tracebacks.
        :param source: Its source; text is encoded as UTF-8.
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
        :param modifier: Called with the source, returns the one to serve; once per module.
        """
        self._modifiers[fullname] = modifier
        self._forget()

    def _forget(self) -> None:
        self._modules.clear()
        self._imports.clear()

    def find(self, fullname: str) -> Module:
        """Return a module that a child asks for.

        :param fullname: Its full name.
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
        found = self._locate(fullname)
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

    def _locate(self, fullname: str) -> _Found | None:
        """Say where a module is. A mere second name for a loaded module is looked at last."""
        if fullname == "__main__":
            return _found_main()
        if not all(fullname.split(".")) or not set("/\\\0").isdisjoint(fullname):
            return None
        for method in self.get_module_methods:
            found = method._locate(fullname)
            if found is not None:
                return found
        return _loaded(fullname)

    def _source(self, found: _Found) -> tuple[str, bytes]:
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
        """Tell whether this is the main program, perhaps by the name given to ``python -m``."""
        if fullname == "__main__":
            return True
        return fullname == _main_spec_name() and fullname not in sys.modules

    def _submodules(self, fullname: str, locations: list[str]) -> tuple[str, ...]:
        names = {"%s.%s" % (fullname, name) for name in _children(locations, fullname)}
        names.update(n for n in self._overrides if n.rpartition(".")[0] == fullname)
        return tuple(sorted(names))

    def get_module_source(self, fullname: str) -> Source:
        """Return path, source and whether it's a package, or three times None.

        :param fullname: Full name of a module. The source of a namespace package is empty.
        """
        try:
            module = self.find(fullname)
        except ModuleUnservable:
            return None, None, None
        return module.path, module.source or b"", module.is_pkg

    # --- whose it is ---

    def kind(self, fullname: str) -> str | None:
        """Tell whose a module is: ``"own"``, ``"installed"``, ``"stdlib"`` or ``"mitogen"``.

        Decided for the top-level name, below a namespace package for the first package or module
        that has a file. A namespace package with portions of several kinds is ``"installed"``.

        :param fullname: Full name of a module.
        :returns: None if it isn't found.
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
        found = self._locate(name)
        while rest and found is not None and found.is_namespace:
            part, _, rest = rest.partition(".")
            name += "." + part
            found = self._locate(name)
        if found is None:
            return None
        if found.is_namespace:
            kinds = set(map(_path_kind, found.locations or ()))
            return kinds.pop() if len(kinds) == 1 else INSTALLED
        kind = OWN if found.path is None else _path_kind(found.path)
        if name in sys.modules and "." not in name:
            self._kinds[name] = kind
        return kind

    def own_names(self) -> list[str]:
        """Return the names of the program's own modules, sorted.

        Top-level names: those loaded, and those in entries of ``sys.path`` that are neither the
        standard library's nor site-packages. Where a namespace package is not wholly the program's
        own, the full names of those of its portions that are. Never ``mitogen``; extension modules
        are left out.
        """
        return sorted(self._own.since(0)[0])

    def own_names_since(self, mark: int) -> tuple[list[str], int]:
        """Return the own names found after an earlier call, to tell a child of them.

        :param mark: What the earlier call returned; 0 for all.
        :returns: The names, in the order in which they were found, and the mark for the next call.
        """
        return self._own.since(mark)

    # --- what it imports ---

    def dependencies(self, fullname: str) -> list[str]:
        """List the modules that a module imports directly, also inside functions.

        :param fullname: Full name of a module.
        :returns: Full names in order, each package before what is imported from it; only what is
            loaded in this process, nothing of the standard library.
        :raises ModuleUnservable: See :meth:`find`.
        """
        return [name for name, _ in self._dependencies(fullname)]

    def _dependencies(self, fullname: str) -> list[tuple[str, bool]]:
        return [
            (name, in_function)
            for name, in_function in self._imported(fullname)
            if sys.modules.get(name) is not None and self.kind(name) != STDLIB
        ]

    def _imported(self, fullname: str) -> list[tuple[str, bool]]:
        """List what a module might import, each with whether only inside functions."""
        imported = self._imports.get(fullname)
        if imported is None:
            found: dict[str, bool] = {}
            module = self.find(fullname)
            for name, in_function in _imported_names(module.package, self._listed(module)):
                if name != fullname and not is_stdlib_name(name):
                    found[name] = found.get(name, True) and in_function
            imported = self._imports[fullname] = list(found.items())
        return imported

    def _listed(self, module: Module) -> Iterable[Import]:
        """List the import statements of a module."""
        name, source = module.fullname, module.source
        if not source:
            return ()
        if self._all_imports is None:
            return _imports_in(_parsed(source))
        loader = None
        if name not in self._overrides and name not in self._modifiers and not self._is_main(name):
            found = self._locate(name)
            loader = None if found is None else found.loader
        code = _code(loader, module.path, source)
        return () if code is None else self._all_imports(code)

    def closure(
        self, fullnames: Iterable[str], want: Callable[[str], bool] | None = None
    ) -> list[str]:
        """List modules with all that they import, in an order in which they can be imported.

        What is imported inside functions comes last. Of a circle of imports, one comes too early.

        :param fullnames: Where to begin.
        :param want: Says for a full name whether it is wanted; what an unwanted module imports is
            not looked at.
        :returns: Full names, each once: those that :meth:`find` returns, a package before what is
            in it, a module after what it imports at import time where that is possible.
        """
        walk = _Closure(self, want)
        walk.add(fullnames)
        return walk.order

    def find_related_imports(self, fullname: str) -> list[str]:
        """As :meth:`dependencies`, but empty for what can't be found.

        :param fullname: Full name of a module.
        """
        try:
            return self.dependencies(fullname)
        except ModuleUnservable:
            return []

    def find_related(self, fullname: str) -> list[str]:
        """List what a module imports, directly or not; see :meth:`closure`.

        :param fullname: Full name of a module, itself not in the result.
        """
        return [name for name in self.closure([fullname]) if name != fullname]

    def resolve_relpath(self, fullname: str, level: int) -> str:
        """Return what to put before a name in ``from ... import`` with *level* dots.

        :param fullname: Full name of the module that has the import.
        :param level: Number of dots.
        :returns: A package's name and a dot; ``""`` for level 0 and where there's no such package.
        """
        if not level:
            return ""
        try:
            package = self.find(fullname).package
        except ModuleUnservable:
            package = fullname.rpartition(".")[0]
        base = _relative(package, level)
        return base + "." if base else ""

    def generate_parent_names(self, fullname: str) -> Iterator[str]:
        """Yield the names of the packages that *fullname* is in, the nearest first."""
        while "." in fullname:
            fullname = fullname.rpartition(".")[0]
            yield fullname


def _relative(package: str, level: int) -> str:
    """Return the package that *level* dots name in a module of *package*, or an empty string."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1]) if level <= len(parts) else ""


def _imported_names(package: str, listed: Iterable[Import]) -> Iterator[tuple[str, bool]]:
    """Yield the full names that may be modules among those imported in a module of *package*."""
    for level, modname, names, in_function in listed:
        base = modname
        if level:
            above = _relative(package, level)
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


class _Closure:
    """One walk through the graph of imports. No recursion: chains of imports can be long."""

    def __init__(self, finder: ModuleFinder, want: Callable[[str], bool] | None) -> None:
        self.order: list[str] = []
        self._finder = finder
        self._want = want
        self._entered: set[str] = set()
        self._accepted: set[str] = set()  # Entered, wanted and found.
        self._emitted: set[str] = set()
        self._later: list[str] = []  # Imported inside functions.

    def add(self, fullnames: Iterable[str]) -> None:
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
            dependencies = self._finder._dependencies(name)
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


class _OwnNames:
    """The growing list of the program's own names."""

    def __init__(self, finder: ModuleFinder) -> None:
        self._finder = finder
        self._lock = threading.Lock()
        self._names: dict[str, None] = {}  # In the order in which they were found; never shrinks.
        self._seen: set[str] = set()  # Those of sys.modules that were looked at.
        self._mixed: set[str] = set()  # Namespace packages with portions that aren't own.
        self._entry_kinds: dict[str, str] = {}
        self._state: list[tuple[str, int]] = []  # Own entries of sys.path and when they changed.
        self._listings: dict[tuple[str, int], _Listing] = {}

    def since(self, mark: int) -> tuple[list[str], int]:
        with self._lock:
            self._look_at_modules()
            self._look_at_path()
            names = list(self._names)
        return names[mark:], len(names)

    def note(self, name: str) -> None:
        """Add a name, unless all that is below its top-level name is on the list."""
        top = name.partition(".")[0]
        if top != MITOGEN and top not in self._names:
            self._names[name] = None

    def _look_at_modules(self) -> None:
        new = set(sys.modules) - self._seen
        self._seen |= new
        for name in sorted(new):  # Sorted: a package comes before what is in it.
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
        """Note a top-level name if it's own and can be served."""
        found = self._finder._locate(name)
        if found is None or (found.path or "").endswith(_EXTENSIONS):
            return
        kind = self._finder.kind(name)
        if kind == OWN:
            self.note(name)
        elif found.is_namespace:
            self._mixed.add(name)
            for location in found.locations or ():
                if _path_kind(location) == OWN:
                    listing = _listed(location)
                    for child in sorted(listing.sources | listing.namespaces):
                        self._look_at_portion("%s.%s" % (name, child))

    def _look_at_portion(self, fullname: str) -> None:
        """Note a module below a namespace package, or the package it is in, if it's own."""
        for name in [*list(self._finder.generate_parent_names(fullname))[::-1], fullname][1:]:
            if name in self._names:
                return
            if self._finder.kind(name) == OWN:
                self.note(name)
                return

    def _look_at_mapping(self, module: ModuleType | None) -> None:
        """Note what setuptools' finder for an editable install knows, even if it isn't loaded."""
        mapping = _attribute(module, "MAPPING")
        for name in mapping if isinstance(mapping, dict) else ():
            if not is_stdlib_name(name) and self._finder.kind(name) == OWN:
                self.note(name)

    def _look_at_path(self) -> None:
        """Note what is in the entries of ``sys.path`` that are the program's own."""
        state = self._path_state()
        if state == self._state:
            return
        self._state = state
        taken: set[str] = set()  # An earlier entry wins, also one of site-packages.
        for entry, changed in state:
            listing = self._listings.get((entry, changed))
            if listing is None:
                listing = self._listings[entry, changed] = _listed(entry)
            if self._entry_kinds[entry] == OWN:
                for name in sorted(listing.sources - taken - self._seen):
                    if not name.startswith("__") and not is_stdlib_name(name):
                        self.note(name)
            taken |= listing.names

    def _path_state(self) -> list[tuple[str, int]]:
        """Return the entries that matter, up to the last own one, each with when it changed."""
        state, length = [], 0
        entries: list[object] = list(sys.path)
        for entry in entries:
            if not isinstance(entry, str):
                continue
            entry = os.path.abspath(entry)
            kind = self._entry_kinds.get(entry)
            if kind is None:
                kind = self._entry_kinds[entry] = _path_kind(entry)
            if kind != STDLIB:
                try:
                    state.append((entry, os.stat(entry).st_mtime_ns))
                except OSError:
                    continue
                if kind == OWN:
                    length = len(state)
        return state[:length]
