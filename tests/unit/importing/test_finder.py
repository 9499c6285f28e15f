"""mitogen.importing.finder: places, kinds and imports of modules."""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import threading
import types
import zipfile

import pytest

from mitogen.importing import finder, paths, scan_imports
from mitogen.importing.finder import ModuleFinder, ModuleUnservable
from tests.checkout import ROOT

GUARD = "if __name__ == '__main__':\n    run()\n"


@contextlib.contextmanager
def kept_interpreter():
    """Restore the import system afterwards."""
    before = (list(sys.path), dict(sys.modules), list(sys.meta_path), list(sys.path_hooks))
    cwd = os.getcwd()
    try:
        yield
    finally:
        os.chdir(cwd)
        sys.path[:], sys.meta_path[:], sys.path_hooks[:] = before[0], before[2], before[3]
        for name in set(sys.modules) - set(before[1]):
            del sys.modules[name]
        sys.modules.update(before[1])
        importlib.invalidate_caches()


class Tree:
    """A directory of modules, on sys.path, and one like site-packages."""

    def __init__(self, root):
        self.root = root
        self.own = root / "own"
        self.site = root / "lib" / "site-packages"
        for path in (self.own, self.site):
            path.mkdir(parents=True)

    def write(self, where, files):
        for name, text in files.items():
            path = where / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        importlib.invalidate_caches()

    def add(self, **files):
        """Write own files: a_b__c is a_b/c.py."""
        self.write(self.own, {name.replace("__", "/") + ".py": t for name, t in files.items()})


@pytest.fixture
def tree(tmp_path):
    with kept_interpreter():
        made = Tree(tmp_path)
        sys.path[:0] = [str(made.own), str(made.site)]
        yield made


@pytest.fixture(params=["bytecode", "parsed"])
def find(request):
    """Return a finder, with and without the bytecode reader."""
    return ModuleFinder(scan_imports.all_imports if request.param == "bytecode" else None)


@pytest.fixture
def one():
    return ModuleFinder(scan_imports.all_imports)


def refusal(finder, fullname):
    with pytest.raises(ModuleUnservable) as caught:
        finder.find(fullname)
    assert caught.value.name == fullname
    assert repr(fullname) in str(caught.value)
    return str(caught.value)


def fake_module(name, **attributes):
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    return module


# --- find(): servable modules


@pytest.mark.parametrize("load", [False, True])
def test_modules_and_packages(tree, one, load):
    tree.write(
        tree.own,
        {
            "alpha.py": "x = 1\n",
            "pkg/__init__.py": "",
            "pkg/sub.py": "y = 1\n",
            "pkg/inner/__init__.py": "# inner\n",
            "pkg/space/deep.py": "",
            "pkg/ext.abi3.so": "",
            "pkg/data.txt": "",
            "pkg/no-name.py": "",
            "pkg/__pycache__/sub.pyc": "",
        },
    )
    if load:
        importlib.import_module("alpha")
        importlib.import_module("pkg.inner")
    alpha, pkg = one.find("alpha"), one.find("pkg")
    assert (alpha.fullname, alpha.path) == ("alpha", str(tree.own / "alpha.py"))
    assert (alpha.source, alpha.is_pkg, alpha.is_namespace) == (b"x = 1\n", False, False)
    assert (alpha.kind, alpha.submodules, alpha.package) == ("own", (), "")
    assert (pkg.is_pkg, pkg.source, pkg.package) == (True, b"", "pkg")
    assert pkg.submodules == ("pkg.ext", "pkg.inner", "pkg.space", "pkg.sub")
    assert one.find("pkg.sub").package == "pkg"
    assert one.find("pkg.inner").source == b"# inner\n"
    assert one.find("alpha") is alpha
    assert ("pkg" in sys.modules) == load and "pkg.sub" not in sys.modules
    assert repr(alpha) == "Module('alpha', %r, kind='own')" % alpha.path


@pytest.mark.parametrize("load", [False, True])
def test_namespace_packages(tree, one, load):
    tree.write(tree.own, {"space/mine.py": "a = 1\n", "space/deep/er/x.py": "b = 1\n"})
    tree.write(tree.site, {"space/theirs/__init__.py": ""})
    if load:
        importlib.import_module("space.deep.er.x")
    space = one.find("space")
    assert (space.is_pkg, space.is_namespace, space.source) == (True, True, None)
    assert space.path == str(tree.own / "space")
    assert space.submodules == ("space.deep", "space.mine", "space.theirs")
    assert one.find("space.deep.er").submodules == ("space.deep.er.x",)
    assert one.find("space.deep.er.x").source == b"b = 1\n"
    kinds = [
        one.kind(n) for n in ("space", "space.mine", "space.theirs.x", "space.deep.er", "space.no")
    ]
    assert kinds == ["installed", "own", "installed", "own", None]
    assert one.get_module_source("space") == (space.path, b"", True)
    assert one.dependencies("space") == []
    assert ("space" in sys.modules) == load


def test_zip_files(tree, one):
    archive = tree.root / "app.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("zalpha.py", "x = 1\n")
        zipped.writestr("zpkg/__init__.py", "import zalpha\n")
        zipped.writestr("zpkg/sub.py", "# -*- coding: latin-1 -*-\ny = '\xe9'\n".encode("latin-1"))
    sys.path.insert(0, str(archive))
    assert one.find("zpkg").submodules == ("zpkg.sub",)
    importlib.import_module("zpkg.sub")
    assert ModuleFinder().find("zpkg.sub").source.endswith(b"y = '\xe9'\n")
    assert one.find("zpkg.sub").path == str(archive / "zpkg" / "sub.py")
    assert one.find("zalpha").source == b"x = 1\n"
    assert one.dependencies("zpkg") == ["zalpha"]
    assert {"zalpha", "zpkg"} <= set(one.own_names())
    assert one.kind("zalpha") == "own"


def test_source_is_passed_on_in_its_own_encoding(tree, one):
    source = b"\xef\xbb\xbf# caf\xc3\xa9\r\nx = 1\r\n"
    tree.write(tree.own, {"bom.py": source, "koi.py": b"# coding: koi8-r\nx = '\xc1'\n"})
    assert one.find("bom").source == source
    importlib.import_module("koi")
    assert one.find("koi").source == b"# coding: koi8-r\nx = '\xc1'\n"


def test_module_that_replaced_itself(tree, one):
    tree.add(
        swap="""
            import sys
            class Swapped:
                def __getattr__(self, name):
                    raise RuntimeError(name)
            sys.modules[__name__] = Swapped()
        """,
        slotted="import sys; sys.modules[__name__] = object()",
    )
    for name in ("swap", "slotted"):
        importlib.import_module(name)
        assert one.find(name).path == str(tree.own / (name + ".py"))
        assert one.kind(name) == "own"


def test_package_that_replaced_itself_keeps_its_submodules(tree, one):
    tree.write(tree.own, {"boxed/__init__.py": "", "boxed/sub.py": "z = 1\n"})

    class Boxed:
        __path__ = (str(tree.own / "boxed"),)
        __file__ = str(tree.own / "boxed" / "__init__.py")
        __name__ = property(lambda self: 1 / 0)

    sys.modules["boxed"] = Boxed()
    assert one.find("boxed").is_pkg
    assert one.find("boxed.sub").source == b"z = 1\n"


def test_lazy_modules_stay_lazy(tree, one):
    tree.add(lazy="raise AssertionError('was imported')")
    spec = importlib.util.find_spec("lazy")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules["lazy"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert one.find("lazy").source.startswith(b"raise")
    assert "lazy" in one.own_names()
    assert type(module) is not types.ModuleType


def test_modules_without_spec(tree, one):
    tree.write(tree.root, {"elsewhere/hand.py": "import os\n", "elsewhere/p/__init__.py": "#\n"})
    where = tree.root / "elsewhere"
    fake_module("hand", __file__=str(where / "hand.py"))
    fake_module("p", __file__=str(where / "p" / "__init__.py"), __path__=[str(where / "p")])
    assert one.find("hand").source == b"import os\n"
    assert (one.find("p").source, one.find("p").is_pkg) == (b"#\n", True)
    assert one.kind("hand") == "own" and {"hand", "p"} <= set(one.own_names())


class TextLoader:
    """A loader with source as text only."""

    def __init__(self, text):
        self.text = text

    def get_source(self, name):
        assert name == "texts", name
        return self.text


@pytest.mark.parametrize(
    "text, encoded",
    [
        ("x = 1\n", b"x = 1\n"),
        ("# coding=latin-1\nx = '\xe9'\n", b"# coding=latin-1\nx = '\xe9'\n"),
        ("\n# coding=latin-1\nx = '\xe9'", b"\n# coding=latin-1\nx = '\xe9'"),
        ("# one\n# two\n# coding=latin-1\n'\xe9'", b"# one\n# two\n# coding=latin-1\n'\xc3\xa9'"),
        ("x = 1\n# coding=latin-1\n'\xe9'", b"x = 1\n# coding=latin-1\n'\xc3\xa9'"),
    ],
)
def test_loader_with_text_only(one, text, encoded):
    with kept_interpreter():
        fake_module("texts", __loader__=TextLoader(text))
        module = one.find("texts")
    assert (module.source, module.path, module.kind) == (encoded, "<texts>", "own")


def test_loader_with_text_in_an_unknown_encoding(one):
    with kept_interpreter():
        fake_module("texts", __loader__=TextLoader("# coding: nonesuch\n"))
        assert "no source" in refusal(one, "texts")


def test_namespace_package_that_lost_its_package(tree, one):
    tree.write(tree.own, {"space/deep/x.py": ""})
    importlib.import_module("space.deep")
    sys.path.append("/changed")  # Forces the path to be recomputed.
    del sys.modules["space"]
    assert one.find("space.deep").submodules == ("space.deep.x",)


def test_second_name_for_a_module(tree, one):
    tree.add(real="x = 1\n")
    sys.modules["nickname"] = importlib.import_module("real")
    assert one.find("nickname").path == one.find("real").path


def test_loaded_wins_over_a_search(tree, one):
    tree.add(twice="x = 1\n")
    importlib.import_module("twice")
    tree.write(tree.root, {"front/twice.py": "x = 2\n"})
    sys.path.insert(0, str(tree.root / "front"))
    assert one.find("twice").source == b"x = 1\n"


def test_legacy_bytecode_beside_its_source(tree, one):
    tree.add(legacy="x = 1\n")
    fake_module("legacy", __file__=str(tree.own / "legacy.pyc"))
    assert one.find("legacy").path == str(tree.own / "legacy.py")


class OtherFinder:
    """A meta path finder of one module, which isn't in sys.path."""

    def __init__(self, name, path):
        self.name, self.path = name, str(path)

    def find_spec(self, name, path=None, target=None):
        if name == "explosive":
            raise RuntimeError(name)
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path)
        return None


def test_other_finders_are_used(tree, one):
    tree.write(tree.root, {"checkout/edited.py": "x = 1\n"})
    sys.meta_path.append(OtherFinder("edited", tree.root / "checkout" / "edited.py"))
    assert one.find("edited").kind == "own"
    assert "not found" in refusal(one, "explosive")


# --- find(): unservable modules


def test_missing(tree, one):
    tree.add(flat="")
    for name in ("nowhere", "flat.sub", "no.such", "a..b", "../etc", "a/b", "nul\0"):
        assert "was not found in sys.path" in refusal(one, name)
        assert one.kind(name) is None or name == "flat.sub"
    assert one.get_module_source("nowhere") == (None, None, None)
    assert one.find_related_imports("nowhere") == []


def test_standard_library(one):
    for name in ("os", "sys", "json.decoder", "xml.nothing", "_socket"):
        assert "standard library" in refusal(one, name)
        assert one.kind(name) == "stdlib"


def test_extension_module(tree, one):
    name = "fast" + importlib.machinery.EXTENSION_SUFFIXES[0]
    tree.write(tree.own, {name: b""})
    text = refusal(one, "fast")
    assert "C extension module" in text and str(tree.own / name) in text
    fake_module("fast", __file__=str(tree.own / name))
    assert "C extension" in refusal(one, "fast")
    assert "fast" not in one.own_names()


def test_bytecode_only(tree, one):
    tree.write(tree.own, {"bare.pyc": b""})
    text = refusal(one, "bare")
    assert "no source" in text and "bare.pyc" in text


def test_made_at_run_time(one):
    with kept_interpreter():
        fake_module("ghost")
        fake_module("moves", __path__=[])
        fake_module("loaded_ghost", __loader__=object())
        for name in ("ghost", "moves", "loaded_ghost"):
            assert "at run time" in refusal(one, name)
        assert not {"ghost", "moves"} & set(one.own_names())


def test_file_is_gone(tree, one):
    fake_module("gone", __file__=str(tree.own / "gone.py"))
    assert "can't be read" in refusal(one, "gone")


def test_built_in(one, monkeypatch):
    with kept_interpreter():
        fake_module("linked_in", __loader__=importlib.machinery.BuiltinImporter)
        assert "built into Python" in refusal(one, "linked_in")


def test_loader_with_data_that_is_not_bytes(tree, one):
    class Loader:
        def get_data(self, path):
            return "text"

    tree.add(odd="x = 1\n")
    fake_module("odd", __file__=str(tree.own / "odd.py"), __loader__=Loader())
    assert one.find("odd").source == b"x = 1\n"


# --- __main__


def as_main(path, spec_name=None, package=None, **attributes):
    spec = None
    if spec_name:
        spec = importlib.util.spec_from_file_location(spec_name, str(path))
    return fake_module(
        "__main__", __file__=str(path), __spec__=spec, __package__=package, **attributes
    )


def test_main_is_cut_at_its_guard(tree, one):
    tree.add(script="import flat\ndef f(): pass\n" + GUARD + "after = 1\n", flat="")
    as_main(tree.own / "script.py")
    importlib.import_module("flat")
    main = one.find("__main__")
    assert main.source == b"import flat\ndef f(): pass\n"
    assert (main.kind, main.is_pkg, main.package) == ("own", False, "")
    assert one.dependencies("__main__") == ["flat"]
    assert one.closure(["__main__"]) == ["flat", "__main__"]
    assert "__main__" in one.own_names()
    assert not (tree.own / "__pycache__" / "script.pyc").exists()


def test_main_of_python_m_is_served_under_both_names(tree, find):
    tree.write(
        tree.own,
        {
            "pkg/__init__.py": "",
            "pkg/helper.py": "x = 1\n",
            "pkg/main.py": "from . import helper\n" + GUARD,
        },
    )
    importlib.import_module("pkg.helper")
    as_main(tree.own / "pkg" / "main.py", "pkg.main", "pkg")
    main, real = find.find("__main__"), find.find("pkg.main")
    assert main.package == real.package == "pkg"
    assert main.source == real.source == b"from . import helper\n"
    assert main.path == real.path
    assert find.dependencies("__main__") == ["pkg", "pkg.helper"]
    assert find.dependencies("pkg.main") == ["pkg", "pkg.helper"]
    assert find.resolve_relpath("__main__", 1) == "pkg."
    importlib.import_module("pkg.main")
    assert ModuleFinder().find("pkg.main").source.endswith(GUARD.encode())


def test_main_without_guard(tree, one):
    tree.add(script="x = 1\nif x:\n    pass\n")
    as_main(tree.own / "script.py")
    text = refusal(one, "__main__")
    assert "whole program again" in text and str(tree.own / "script.py") in text


def test_main_without_file(one):
    with kept_interpreter():
        fake_module("__main__")
        assert "-c" in refusal(one, "__main__")
        assert finder.DefectivePython3xMainMethod().find("__main__") is None
        del sys.modules["__main__"]
        assert "-c" in refusal(one, "__main__")
        fake_module("__main__", __file__=os.__file__)  # The interactive loop of Python 3.13.
        assert "-c" in refusal(one, "__main__")


GUARDS = [
    "if __name__ == '__main__': go()",
    'if "__main__" == __name__:\n  go()',
    "if x and __name__ == '__main__':\n  go()",
    "if (__name__ ==\n  '__main__'):\n  go()",
]


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_guards(guard, end):
    source = ("x = 1\n\f\n" + guard + "\ny = 2\n").replace("\n", end)
    kept = "x = 1\n\f\n".replace("\n", end)
    assert finder.neutralize_main("a.py", source) == kept
    assert finder.neutralize_main("a.py", source.encode()) == kept.encode()


@pytest.mark.parametrize(
    "source",
    [
        "",
        "if __name__ != '__main__': go()",
        "if __name__ == 'main': go()",
        "if x or __name__ == '__main__': go()",
        "if __name__ == '__main__' == y: go()",
        "def main(): pass\nmain()",
        "@other.main()\ndef f(): pass",
        "@main()\ndef f(): pass",
        "from other import main\n@main()\ndef f(): pass",
    ],
)
def test_no_guard(source):
    with pytest.raises(ModuleUnservable, match="a.py has no"):
        finder.neutralize_main("a.py", source)


def test_main_that_is_not_valid_python():
    with pytest.raises(ModuleUnservable, match="can't be parsed.*line 1"):
        finder.neutralize_main("a.py", "x = = 1")


@pytest.mark.parametrize(
    "source",
    [
        "import mitogen\n@mitogen.main()\ndef main(router): pass\n",
        "import mitogen.utils\n@mitogen.main(log_level='DEBUG')\nasync def main(router): pass\n",
        "import mitogen as m\n@m.main()\ndef main(router): pass\n",
        "from mitogen import main\n@other\n@main()\ndef go(router): pass\n",
        "from mitogen import main as run\n@run()\ndef go(router): pass\n",
    ],
)
def test_mitogen_main_needs_no_guard(source):
    assert finder.neutralize_main("a.py", source) == source


@pytest.mark.parametrize("way", ["file", "module", "directory", "zip", "-c", "stdin"])
def test_real_main(tree, way):
    """A real Python sets up __main__ for each way to start it."""
    text = "import sys; sys.path.insert(0, %r)\nfrom mitogen.importing import finder\n" % str(ROOT)
    text += "f = finder.ModuleFinder()\n"
    body = "    m = f.find('__main__')\n    print(m.path, m.package, len(m.source))\n"
    guarded = text + "if __name__ == '__main__':\n" + body
    tree.write(tree.own, {"pkg/__init__.py": "", "pkg/run.py": guarded, "__main__.py": guarded})
    with zipfile.ZipFile(tree.root / "app.pyz", "w") as zipped:
        zipped.writestr("__main__.py", guarded)
    arguments = {
        "file": [str(tree.own / "pkg" / "run.py")],
        "module": ["-m", "pkg.run"],
        "directory": [str(tree.own)],
        "zip": [str(tree.root / "app.pyz")],
        "-c": ["-c", text + "f.find('__main__')"],
        "stdin": [],
    }[way]
    done = subprocess.run(
        [sys.executable, "-S", "-E", *arguments],
        cwd=tree.own,
        input=text + "f.find('__main__')",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if way in ("-c", "stdin"):
        assert "it has no file" in done.stdout
    else:
        path, package, size = re.match(r"(.*?\.py) (\w*) ?(\d+)\n\Z", done.stdout).groups()
        assert os.path.basename(path) == ("run.py" if way in ("file", "module") else "__main__.py")
        assert (package, int(size)) == ("pkg" if way == "module" else "", len(text))


# --- overrides and modifiers


def test_override(tree, one):
    tree.write(tree.own, {"pkg/__init__.py": "old\n", "pkg/sub.py": ""})
    assert one.find("pkg").source == b"old\n"
    one.add_source_override("pkg.new", "/new.py", "import a\n", False)
    one.add_source_override("json", "/json.py", b"x = 1\n", False)
    one.add_source_override("extra", "/extra/__init__.py", "", True)
    one.add_source_override("extra.one", "/extra/one.py", "", False)
    one.add_source_override("mitogen.extra", "/extra.py", "", False)
    assert one.find("pkg").submodules == ("pkg.new", "pkg.sub")
    assert (one.find("pkg.new").source, one.find("pkg.new").path) == (b"import a\n", "/new.py")
    assert (one.find("json").source, one.kind("json"), one.find("json").kind) == (
        b"x = 1\n",
        "own",
        "own",
    )
    assert one.find("extra").submodules == ("extra.one",)
    assert one.find("mitogen.extra").kind == "mitogen"
    names = one.own_names()
    assert {"extra", "json", "pkg"} <= set(names) and "mitogen.extra" not in names
    assert one.dependencies("pkg.new") == []


def test_modifier(tree, one):
    tree.add(alpha="import beta\n", beta="", gamma="")
    for name in ("alpha", "beta", "gamma"):
        importlib.import_module(name)
    assert one.dependencies("alpha") == ["beta"]
    one.add_source_modifier("alpha", lambda source: source.replace(b"beta", b"gamma"))
    assert one.find("alpha").source == b"import gamma\n"
    assert one.dependencies("alpha") == ["gamma"]


# --- kinds of modules


def test_mitogen_and_main_are_known(one):
    assert (
        one.kind("mitogen.importing.finder")
        == one.find("mitogen.importing.finder").kind
        == "mitogen"
    )
    assert one.kind("__main__") == "own"
    assert "mitogen" not in one.own_names()


def test_stdlib_names_and_paths(tmp_path):
    assert finder.is_stdlib_name("os.path") and finder.is_stdlib_name("_thread")
    assert not finder.is_stdlib_name("pytest") and not finder.is_stdlib_name("mitogen.core")
    assert finder.is_stdlib_path(os.__file__)
    assert not finder.is_stdlib_path(pytest.__file__)
    assert not finder.is_stdlib_path(str(tmp_path))
    library = os.path.dirname(os.__file__)
    assert not finder.is_stdlib_path(os.path.join(library, "site-packages", "x.py"))
    assert not finder.is_stdlib_path(library + "-other")


def test_stdlib_names_before_python_3_10(monkeypatch):
    monkeypatch.delattr(sys, "stdlib_module_names", raising=False)
    monkeypatch.setattr(paths, "_stdlib_names_by_path", set())
    for name in ("os", "json.decoder", "asyncio", "sys", "_socket"):
        assert finder.is_stdlib_name(name), name
    for name in ("pytest", "mitogen", "site-packages", "test", "nowhere"):
        assert not finder.is_stdlib_name(name), name


def test_own_names(tree, one):
    tree.write(
        tree.own,
        {
            "single.py": "",
            "pack/__init__.py": "",
            "plain/file.py": "",
            "data.txt": "",
            "my-script.py": "",
            "json.py": "",
            "__hidden.py": "",
            "mitogen/__init__.py": "",
        },
    )
    tree.write(tree.site, {"thing.py": "", "both.py": "", "loaded_thing/__init__.py": ""})
    tree.write(tree.root / "late", {"both.py": "", "third.py": ""})
    sys.path.append(str(tree.root / "late"))
    sys.path.append(str(tree.root / "missing"))
    sys.path.append(tree.root)  # Not text: Python skips it, too.
    importlib.import_module("loaded_thing")
    names = set(one.own_names())
    assert {"single", "pack", "third", "__main__"} <= names
    assert not {"plain", "data", "json", "__hidden", "mitogen", "thing", "both"} & names
    assert not {"loaded_thing", "pytest", "os"} & names
    assert one.kind("thing") == one.kind("both") == one.kind("loaded_thing") == "installed"


def test_later_own_names(tree, one):
    tree.add(first="")
    names, mark = one.own_names_since(0)
    assert "first" in names and one.own_names_since(mark) == ([], mark)
    tree.write(tree.own, {"plain/file.py": ""})
    importlib.import_module("plain.file")
    assert one.own_names_since(mark) == (["plain"], mark + 1)
    tree.write(tree.root / "more", {"second.py": ""})
    sys.path.append(str(tree.root / "more"))
    assert one.own_names_since(mark + 1) == (["second"], mark + 2)
    tree.write(tree.root / "more", {"third.py": ""})
    os.utime(tree.root / "more", ns=(1, 1))  # Independent of the file system's clock.
    assert one.own_names_since(mark + 2) == (["third"], mark + 3)
    assert set(names) < set(one.own_names())


def test_own_portions_of_a_namespace_package(tree, one):
    tree.write(tree.own, {"space/mine/__init__.py": "", "space/deep/a.py": ""})
    tree.write(tree.site, {"space/theirs.py": ""})
    tree.write(tree.root / "late", {"space/new/__init__.py": "", "space/new/x.py": ""})
    importlib.import_module("space")
    names, mark = one.own_names_since(0)
    assert {"space.mine", "space.deep"} <= set(names)
    assert not {"space", "space.theirs"} & set(names)
    sys.path.append(str(tree.root / "late"))
    importlib.import_module("space.new.x")
    importlib.import_module("space.mine")
    importlib.import_module("space.theirs")
    assert one.own_names_since(mark)[0] == ["space.new"]


def test_editable_installs_that_are_not_loaded(tree, one):
    tree.write(tree.root, {"checkout/edited/__init__.py": "", "checkout/edited/sub.py": ""})
    path = tree.root / "checkout" / "edited" / "__init__.py"
    sys.meta_path.append(OtherFinder("edited", path))
    mapping = {"edited": str(path.parent), "json": "/json", "absent": "/absent"}
    fake_module("__editable___edited_1_0_finder", MAPPING=mapping)
    fake_module("__editable___broken_finder")
    names = one.own_names()
    assert "edited" in names and not {"json", "absent"} & set(names)


def test_own_names_in_the_current_directory(tree, one):
    tree.write(tree.root / "cwd", {"here.py": ""})
    os.chdir(tree.root / "cwd")
    sys.path.insert(0, "")
    assert "here" in one.own_names()


def test_own_names_from_many_threads(tree, one):
    tree.add(single="")
    results = []
    threads = [threading.Thread(target=lambda: results.append(one.own_names())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(results[0]) == 4


# --- imports of a module


def graph(tree):
    tree.write(
        tree.own,
        {
            "top.py": """
                import os, json.decoder
                import pkg.mod
                from pkg import sub, value
                from installed import x
                try:
                    import absent
                except ImportError:
                    pass
                def later():
                    import lazy
                    import pkg.mod
            """,
            "pkg/__init__.py": "from . import sub\nfrom .mod import *\nvalue = 1\n",
            "pkg/sub.py": "from .inner.leaf import z\n",
            "pkg/mod.py": "import base\nclass A:\n    from .sub import z\n",
            "pkg/inner/__init__.py": "",
            "pkg/inner/leaf.py": """
                z = 1
                def f():
                    from ..mod import A
                    from .... import far
            """,
            "base.py": "",
            "lazy.py": "import top\nimport unloaded\n",
            "unloaded.py": "",
        },
    )
    tree.write(tree.site, {"installed.py": "import helper\nx = 1\n", "helper.py": ""})
    importlib.import_module("top")


def test_dependencies(tree, find):
    graph(tree)
    assert find.dependencies("top") == ["pkg", "pkg.mod", "pkg.sub", "installed"]
    assert find.dependencies("pkg") == ["pkg.sub", "pkg.mod"]
    assert find.dependencies("pkg.mod") == ["base", "pkg", "pkg.sub"]
    assert find.dependencies("pkg.inner.leaf") == ["pkg", "pkg.mod"]
    assert find.dependencies("base") == []
    importlib.import_module("lazy")
    assert find.dependencies("top") == ["pkg", "pkg.mod", "pkg.sub", "installed", "lazy"]
    assert find.find_related_imports("lazy") == ["top", "unloaded"]


def test_dependencies_of_a_module_with_a_syntax_error(tree, find):
    tree.add(broken="import os\nx = = 1\n")
    fake_module("broken", __file__=str(tree.own / "broken.py"))
    assert find.dependencies("broken") == []
    with pytest.raises(ModuleUnservable):
        find.dependencies("nowhere")


def test_imports_are_found_in_all_kinds_of_statements(tree, find):
    tree.add(
        nested="""
            try:
                import m1
            except ImportError:
                import m2
            else:
                import m3
            finally:
                import m4
            if os:
                import m5
            elif sys:
                import m6
            async def f():
                with a as b:
                    import m7
            f = lambda: 1
        """
    )
    names = ["m%d" % number for number in range(1, 8)]
    for name in ["nested", *names]:
        tree.add(**{name: (tree.own / "nested.py").read_text() if name == "nested" else ""})
        fake_module(name, __file__=str(tree.own / (name + ".py")))
    assert sorted(find.dependencies("nested")) == names


def test_closure(tree, find):
    graph(tree)
    assert find.closure(["top"]) == [
        "pkg",
        "pkg.inner",
        "pkg.inner.leaf",
        "pkg.sub",
        "base",
        "pkg.mod",
        "helper",
        "installed",
        "top",
    ]
    assert find.find_related("installed") == ["helper"]
    assert find.closure(["top"], lambda name: find.kind(name) == "own")[-1] == "top"
    assert "helper" not in find.closure(["top"], lambda name: name != "installed")
    assert find.closure(["nowhere", "base"]) == ["base"]


def test_closure_puts_functions_imports_last(tree, find):
    tree.add(
        a="import b\n", b="def f():\n    import c\n", c="import a\nimport d\n", d="", e="import c\n"
    )
    for name in "abcde":
        importlib.import_module(name)
    assert find.closure(["a"]) == ["b", "a", "d", "c"]
    assert find.closure("ae") == ["b", "a", "d", "c", "e"]


def test_closure_of_a_circle_and_a_long_chain(tree, one):
    count = 1500
    files = {"chain%d.py" % n: "import chain%d\n" % (n + 1) for n in range(count)}
    one.add_source_override("chain%d" % count, "/end.py", "import chain0\n", False)
    for name, source in files.items():
        one.add_source_override(name[:-3], "/" + name, source, False)
        fake_module(name[:-3])
    fake_module("chain%d" % count)
    expected = ["chain%d" % n for n in range(count, -1, -1)]
    assert one.closure(["chain0"]) == expected


def test_packages_come_first_in_a_circle(tree, find):
    tree.write(
        tree.own,
        {
            "q/__init__.py": "import other\n",
            "q/part.py": "",
            "other.py": "import q.part\n",
        },
    )
    importlib.import_module("q.part")
    order = find.closure(["q"])
    assert sorted(order) == ["other", "q", "q.part"]
    assert order.index("q") < order.index("q.part")


def test_run_time_modules_are_left_out(tree, find):
    tree.add(user="from moves import urllib\nimport base\n", base="")
    fake_module("moves", __path__=[], urllib=None)
    fake_module("moves.urllib")
    for name in ("user", "base"):
        fake_module(name, __file__=str(tree.own / (name + ".py")))
    assert find.closure(["user"]) == ["base", "user"]


def test_relative_names(tree, one):
    tree.write(tree.own, {"pkg/__init__.py": "", "pkg/sub.py": ""})
    cases = [("pkg.sub", 0), ("pkg.sub", 1), ("pkg", 1), ("pkg.sub", 2), ("a.b.c", 1), ("a.b.c", 2)]
    assert [one.resolve_relpath(*case) for case in cases] == ["", "pkg.", "pkg.", "", "a.b.", "a."]
    assert list(one.generate_parent_names("a.b.c")) == ["a.b", "a"]


# --- the older interface


def test_methods(tree, one):
    tree.write(tree.own, {"pkg/__init__.py": "", "pkg/sub.py": "x = 1\n", "space/a.py": ""})
    path = str(tree.own / "pkg" / "sub.py")
    searching = (finder.ParentSpecEnumerationMethod(), finder.ParentImpEnumerationMethod())
    for method in searching:
        assert method.find("pkg.sub") == (path, b"x = 1\n", False)
        assert method.find("space") == (str(tree.own / "space"), b"", True)
    for method in (finder.SysModulesMethod(), finder.PkgutilMethod()):
        assert method.find("pkg.sub") is None
    importlib.import_module("pkg.sub")
    for method in (finder.SysModulesMethod(), finder.PkgutilMethod()):
        assert method.find("pkg.sub") == (path, b"x = 1\n", False)
        assert method.find("sys") is None
    assert repr(finder.PkgutilMethod()) == "PkgutilMethod()"
    assert [type(method).__name__ for method in one.get_module_methods] == [
        "DefectivePython3xMainMethod",
        "PkgutilMethod",
        "SysModulesMethod",
        "ParentSpecEnumerationMethod",
    ]
    with pytest.raises(NotImplementedError):
        finder.FinderMethod().find("pkg")


def test_main_method(tree):
    tree.add(script="x = 1\n")
    as_main(tree.own / "script.py")
    method = finder.DefectivePython3xMainMethod()
    assert method.find("__main__") == (str(tree.own / "script.py"), b"x = 1\n", False)
    assert method.find("other") is None


def test_child_modules(tree):
    tree.write(tree.own, {"pkg/__init__.py": "", "pkg/sub.py": "", "pkg/inner/__init__.py": ""})
    path = str(tree.own / "pkg" / "__init__.py")
    assert finder.get_child_modules(path, "pkg") == ["inner", "sub"]
    fake_module("pkg.made")
    fake_module("pkg.made.deep")
    assert finder.get_child_modules(path, "pkg") == ["inner", "made", "sub"]
    assert finder.get_child_modules(path) == ["inner", "sub"]
    assert finder.get_child_modules("relative/missing/__init__.py") == []


def test_import_is_cheap():
    code = "import sys; before = set(sys.modules); sys.path.insert(0, %r)\n"
    code += "import mitogen.importing.finder\n"
    code += "print(*sorted(set(sys.modules) - before))"
    command = [sys.executable, "-S", "-E", "-c", code % str(ROOT)]
    loaded = subprocess.check_output(command, text=True).split()
    assert not {"ast", "dis", "inspect", "pkgutil", "tokenize", "typing_extensions"} & set(loaded)


def test_public_names():
    assert all(hasattr(finder, name) for name in finder.__all__)
