"""Choice between the master's and the target's modules, and the number of requests.

Each test writes the program's own modules to a directory on sys.path, as with a script.
"""

import importlib
import inspect
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from mitogen import core
from tests.checkout import ROOT
from tests.integration.far import work

HERE = pathlib.Path(__file__).resolve().parent
LOAD = "get_module_count"


class Program:
    """The directory of a program; `load()` imports a module in it and returns it."""

    def __init__(self, directory):
        self.directory = directory

    def load(self, name):
        importlib.invalidate_caches()
        return importlib.import_module(name)


@pytest.fixture
def program(tmp_path, monkeypatch):
    directory = tmp_path / "program"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield Program(directory)
    for name in set(sys.modules) - before:
        if str(directory) in str(getattr(sys.modules[name], "__spec__", "")):
            del sys.modules[name]


def files(directory, table):
    """Write {relative path: text} below *directory*."""
    for name, text in table.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def count_requests(router):
    """Return the number of modules the contexts have requested."""
    return router.get_stats()[LOAD]


def tree_of(count):
    """Return a package whose top module imports, one through the other, *count* modules."""
    table = {"tree/__init__.py": "", "tree/deep/__init__.py": ""}
    for number in range(count - 4):
        below = "from tree.deep import m{}".format(number + 1) if number < count - 5 else ""
        text = "{}\nNAME = __name__\ndef answer():\n    return {}\n".format(below, number)
        table["tree/deep/m{}.py".format(number)] = text
    numbers = ", ".join("m{}".format(number) for number in range(count - 4))
    table["tree/top.py"] = """
        import sys
        from tree.deep import {}

        def total():
            from tree import late
            return late.START + sum(module.answer() for module in [{}])

        def loaded():
            return sorted(name for name in sys.modules if name.startswith("tree"))
        """.format(numbers, numbers)
    table["tree/late.py"] = "START = 1000"
    return table


class TestPush:
    def test_a_tree_of_thirty_needs_no_request(self, program, own_router):
        files(program.directory, tree_of(30))
        top = program.load("tree.top")
        program.load("tree.late")
        context = own_router.local()
        below = own_router.local(via=context)
        for each in (context, below):
            each.call(work.add, 1)
        before = count_requests(own_router)
        for each in (context, below):
            assert each.call(top.total) == 1000 + sum(range(26))
            assert len(each.call(top.loaded)) == 30
        assert count_requests(own_router) == before

    def test_modules_not_loaded_by_the_master_are_requested(self, program, own_router):
        files(program.directory, tree_of(10))
        top = program.load("tree.top")
        context = own_router.local()
        assert context.call(top.total) == 1000 + sum(range(6))
        assert "tree.late" not in sys.modules

    def test_each_module_is_sent_once(self, program, own_router):
        files(program.directory, tree_of(10))
        top = program.load("tree.top")
        context = own_router.local()
        context.call(top.total)
        before = own_router.get_stats()
        context.call(top.total)
        own_router.local(via=context).call(work.add, 1)
        assert own_router.get_stats()[LOAD] == before[LOAD]

    def test_missing_optional_submodules_cost_nothing(self, program, own_router):
        table = {
            "opt/__init__.py": """
                try:
                    from opt import _speedups
                except ImportError:
                    _speedups = None
                try:
                    import opt.other.thing
                except ImportError:
                    pass
                from opt import plain
                """,
            "opt/plain.py": """
                from opt import _speedups
                def answer():
                    try:
                        from opt import neither
                    except ImportError as error:
                        return str(_speedups), type(error).__name__
                """,
        }
        files(program.directory, table)
        plain = program.load("opt.plain")
        context = own_router.local()
        context.call(work.add, 1)
        before = count_requests(own_router)
        assert context.call(plain.answer) == ("None", "ImportError")
        assert count_requests(own_router) == before


class TestChoice:
    def test_a_namespace_package_is_served(self, program, own_router, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path / "second"))
        files(
            program.directory, {"space/one.py": "def f():\n    import space.two as t; return t.X"}
        )
        files(tmp_path / "second", {"space/two.py": "X = 'two'"})
        one = program.load("space.one")
        assert own_router.local().call(one.f) == "two"

    def test_the_standard_library_is_the_childs_own(self, program, own_router):
        table = {
            "colorsys.py": "HOSTILE = True",
            "user.py": """
                import sys
                def where():
                    import colorsys, json
                    return colorsys.__file__, json.__file__, hasattr(colorsys, "HOSTILE")
                """,
        }
        files(program.directory, table)
        user = program.load("user")
        before = own_router.get_stats()
        colorsys, json_file, hostile = own_router.local().call(user.where)
        assert not hostile
        assert os.path.isfile(colorsys) and os.path.isfile(json_file)
        assert "program" not in colorsys
        assert own_router.get_stats()["bad_load_module_count"] == before["bad_load_module_count"]

    def test_a_missing_stdlib_name_is_not_served(self, program, own_router):
        """A module of this Python's library that the target's lacks would be incomplete there."""
        files(program.directory, {"asks.py": "def f(name):\n    return __import__(name).__file__"})
        asks = program.load("asks")
        with pytest.raises(ImportError, match="winreg"):
            own_router.local().call(asks.f, "winreg")

    @pytest.fixture
    def installed(self, tmp_path, monkeypatch):
        """Return a directory on the children's PYTHONPATH, like that of installed packages."""
        directory = tmp_path / "lib" / "site-packages"
        monkeypatch.setenv("PYTHONPATH", str(directory))
        return directory

    def test_own_modules_shadow_installed_ones(self, program, own_router, installed):
        files(installed, {"six.py": "MINE = False", "yaml/__init__.py": "MINE = False"})
        table = {
            "six.py": "MINE = True",
            "yaml/__init__.py": "from yaml.part import MINE",
            "yaml/part.py": "MINE = True",
            "uses.py": "def f():\n    import six, yaml; return six.MINE, yaml.MINE",
        }
        files(program.directory, table)
        uses = program.load("uses")
        assert own_router.local().call(uses.f) == (True, True)

    def test_the_target_uses_its_own_installed_packages(
        self, program, own_router, installed, tmp_path, monkeypatch
    ):
        files(installed, {"thing.py": "WHOSE = 'target'"})
        here = tmp_path / "venv" / "site-packages"
        files(here, {"thing.py": "WHOSE = 'master'", "only.py": "WHOSE = 'master'"})
        monkeypatch.syspath_prepend(str(here))
        files(
            program.directory,
            {"uses.py": "def f():\n    import thing, only\n    return thing.WHOSE, only.WHOSE"},
        )
        uses = program.load("uses")
        program.load("thing")
        program.load("only")
        try:
            assert own_router.local().call(uses.f) == ("target", "master")
        finally:
            del sys.modules["thing"], sys.modules["only"]

    def test_a_c_extension_is_refused_with_the_reason(self, program, own_router):
        files(
            program.directory, {"ext/__init__.py": "", "ext/uses.py": "def f():\n    import ext._c"}
        )
        (program.directory / "ext" / "_c.abi3.so").write_bytes(b"\x7fELF")
        uses = program.load("ext.uses")
        with pytest.raises(ImportError, match="(?i)extension"):
            own_router.local().call(uses.f)


class TestPolicy:
    @pytest.fixture
    def uses(self, program):
        table = {
            "good.py": "X = 1",
            "secret/__init__.py": "",
            "secret/key.py": "X = 2",
            "uses.py": "def f(name):\n    return __import__(name, fromlist=['X']).X",
        }
        files(program.directory, table)
        return program.load("uses")

    def test_blacklisted_modules_are_not_served(self, uses, own_router):
        own_router.responder.blacklist_prefix("secret")
        context = own_router.local()
        assert context.call(uses.f, "good") == 1
        with pytest.raises(ImportError, match="blacklist"):
            context.call(uses.f, "secret.key")

    def test_only_whitelisted_modules_are_served(self, uses, own_router):
        own_router.responder.whitelist_prefix("uses")
        own_router.responder.whitelist_prefix("good")
        context = own_router.local()
        assert context.call(uses.f, "good") == 1
        with pytest.raises(ImportError, match="whitelist"):
            context.call(uses.f, "secret.key")

    def test_source_override_replaces_the_source(self, uses, own_router):
        own_router.responder.add_source_override("good", "/x/good.py", b"X = 77", False)
        assert own_router.local().call(uses.f, "good") == 77


class TestSource:
    TEXT = """
        import inspect

        def source():
            # a comment that is not code
            return inspect.getsource(source)

        def fail():
            raise KeyError("here")  # the line that fails
        """

    def test_getsource_and_lines_of_tracebacks(self, program, own_router):
        files(program.directory, {"looks.py": self.TEXT})
        looks = program.load("looks")
        context = own_router.local()
        assert context.call(looks.source) == inspect.getsource(looks.source)
        with pytest.raises(KeyError) as caught:
            context.call(looks.fail)
        assert 'raise KeyError("here")  # the line that fails' in str(caught.value)
        assert "looks.py" in str(caught.value)

    def test_resources_of_a_package(self, program, own_router):
        text = """
            def read():
                try:
                    from importlib.resources import files
                except ImportError:
                    from importlib.resources import read_text
                    return read_text(__package__, "data.txt")
                return files(__package__).joinpath("data.txt").read_text()
            """
        files(program.directory, {"res/__init__.py": "", "res/code.py": text, "res/data.txt": "hi"})
        code = program.load("res.code")
        assert own_router.local().call(code.read) == "hi"


GUARDED = """
    import mitogen.utils

    def where():
        return __name__, __file__

    def main(router):
        print(*router.local().call(where))

    if __name__ == "__main__":
        mitogen.utils.run_with_router(main)
    """

DECORATED = """
    import mitogen

    def where():
        return __name__, __file__

    @mitogen.main()
    def main(router):
        print(*router.local().call(where))
    """

UNGUARDED = """
    import mitogen.utils

    def where():
        return __name__, __file__

    def main(router):
        print(*router.local().call(where))

    mitogen.utils.run_with_router(main)
    """


class TestMain:
    def run(self, tmp_path, text):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, str(script)],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=30,
        )

    @pytest.mark.parametrize("text", [GUARDED, DECORATED], ids=["guard", "mitogen.main()"])
    def test_functions_of_main_can_be_called(self, tmp_path, text):
        done = self.run(tmp_path, text)
        assert done.returncode == 0, done.stderr
        name, path = done.stdout.split()
        assert name == "__main__"
        assert path.endswith("script.py")

    def test_main_without_a_guard_is_refused_with_the_reason(self, tmp_path):
        done = self.run(tmp_path, UNGUARDED)
        assert done.returncode == 1
        assert "__main__" in done.stderr
        assert 'if __name__ == "__main__"' in done.stderr.replace("'", '"')


IN_PACKAGE = """
    import mitogen.utils
    from . import helper
    from .deep import below

    def where():
        from . import late
        return __name__, __package__, helper.NAME, below.NAME, late.NAME

    def main(router):
        child = router.local()
        print(*child.call(where))
        print(*router.local(via=child).call(where))

    if __name__ == "__main__":
        mitogen.utils.run_with_router(main)
    """


class TestMainOfPackage:
    """`python -m pkg.main` and `python -m pkg`: relative imports work in children too."""

    @pytest.mark.parametrize("name, file", [("pkg.main", "main.py"), ("pkg", "__main__.py")])
    def test_relative_imports(self, tmp_path, name, file):
        text = "NAME = __name__"
        files(
            tmp_path,
            {
                "pkg/__init__.py": "",
                "pkg/" + file: IN_PACKAGE,
                "pkg/helper.py": text,
                "pkg/late.py": text,
                "pkg/deep/__init__.py": "",
                "pkg/deep/below.py": text,
            },
        )
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", name],
            env=dict(os.environ, PYTHONPATH=str(ROOT)),
            cwd=str(tmp_path),
            capture_output=True,
            text=True,
            timeout=30,
        )
        line = "__main__ pkg pkg.helper pkg.deep.below pkg.late\n"
        assert (done.stdout, done.stderr) == (line * 2, "")


FINDER = """
    import importlib.machinery, sys

    class Finder:
        def find_spec(self, fullname, path=None, target=None):
            if fullname == __name__ + ".moved":
                return importlib.machinery.ModuleSpec(fullname, self)

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            module.NAME = "made by a finder"

    sys.meta_path.append(Finder())
    """
USES_FINDER = """
    def moved():
        import pkg.moved
        return pkg.moved.NAME

    def missing():
        import pkg.nothing_at_all
    """


class TestFinders:
    """six.moves, pkg_resources.extern and pip._vendor append a finder to sys.meta_path."""

    @pytest.mark.parametrize("depth", [1, 2])
    def test_a_finder_appended_later_is_asked(self, program, own_router, depth):
        files(program.directory, {"pkg/__init__.py": FINDER, "pkg/user.py": USES_FINDER})
        user = program.load("pkg.user")
        child = own_router.local()
        for _ in range(depth - 1):
            child = own_router.local(via=child)
        assert child.call(user.moved) == "made by a finder"
        with pytest.raises(core.CallError, match="No module named 'pkg.nothing_at_all'"):
            child.call(user.missing)


class TestOddModules:
    def test_a_module_that_replaces_itself_in_sys_modules(self, program, own_router):
        text = """
            import sys
            class Api:
                value = 42
                def __call__(self):
                    return "called"
            sys.modules[__name__] = Api()
            """
        uses = "import selfmade\ndef f():\n    return selfmade.value, selfmade()"
        files(program.directory, {"selfmade.py": text, "uses_selfmade.py": uses})
        uses = program.load("uses_selfmade")
        assert own_router.local().call(uses.f) == (42, "called")

    def test_a_module_that_registers_another(self, program, own_router):
        """The name has no file, like those of `six.moves`."""
        text = """
            import sys, types
            moves = types.ModuleType(__name__ + ".moves")
            moves.answer = lambda: 42
            sys.modules[moves.__name__] = moves
            """
        uses = "import lots.made\ndef f():\n    from lots.made import moves; return moves.answer()"
        files(
            program.directory,
            {"lots/__init__.py": "", "lots/made.py": text, "uses_lots.py": uses},
        )
        uses = program.load("uses_lots")
        assert own_router.local().call(uses.f) == 42

    def test_a_package_in_a_zip_file(self, program, own_router, tmp_path, monkeypatch):
        import zipfile

        archive = tmp_path / "zipped.zip"
        with zipfile.ZipFile(str(archive), "w") as zipped:
            zipped.writestr("zipped/__init__.py", "from . import part\n")
            zipped.writestr("zipped/part.py", "def f():\n    return __name__, __file__\n")
            zipped.writestr("zipped/late.py", "NAME = __name__\n")
            zipped.writestr(
                "zipped/uses.py",
                "def f():\n    from zipped import late, part; return late.NAME, part.f()\n",
            )
        monkeypatch.syspath_prepend(str(archive))
        uses = program.load("zipped.uses")
        late, (name, path) = own_router.local().call(uses.f)
        assert (late, name) == ("zipped.late", "zipped.part") and "zipped.zip" in path

    def test_a_namespace_package_of_two_directories(
        self, program, own_router, tmp_path, monkeypatch
    ):
        other = tmp_path / "other"
        files(other, {"wide/two.py": "X = __name__"})
        monkeypatch.syspath_prepend(str(other))
        text = (
            "def f():\n    import wide.two; from wide import one; return wide.two.X, one.__name__"
        )
        files(program.directory, {"wide/one.py": text})
        one = program.load("wide.one")
        assert own_router.local().call(one.f) == ("wide.two", "wide.one")

    def test_a_circular_import(self, program, own_router):
        files(
            program.directory,
            {
                "round/__init__.py": "",
                "round/a.py": "from round import b\ndef f():\n    return b.g()",
                "round/b.py": "import round.a\ndef g():\n    return round.a.f.__name__",
            },
        )
        assert own_router.local().call(program.load("round.a").f) == "f"

    def test_source_may_have_another_encoding(self, program, own_router):
        text = "# -*- coding: latin-1 -*-\ndef f():\n    return 'caf\xe9'\n"
        (program.directory / "latin.py").write_bytes(text.encode("latin-1"))
        assert own_router.local().call(program.load("latin").f) == "caf\xe9"

    def test_an_error_in_a_module_is_an_error_of_the_call(self, program, own_router):
        files(
            program.directory,
            {
                "breaks.py": "import mitogen\nassert mitogen.is_master, 'not for children'\n",
                "uses_breaks.py": "def f():\n    import breaks\n",
            },
        )
        child = own_router.local()
        with pytest.raises(AssertionError, match="not for children"):
            child.call(program.load("uses_breaks").f)
        assert child.call(work.echo, 1) == 1


class TestSettings:
    def test_a_source_modifier_changes_the_source(self, program, own_router):
        files(program.directory, {"plain.py": "WORD = 'before'\ndef f():\n    return WORD"})
        plain = program.load("plain")
        own_router.responder.add_source_modifier(
            "plain", lambda source: source.replace(b"before", b"after")
        )
        assert own_router.local().call(plain.f) == "after"
        assert plain.f() == "before"

    def test_a_source_override_provides_a_missing_module(self, own_router, program):
        own_router.responder.add_source_override(
            "made_up", "<made up>", b"def f():\n    return __name__, __file__\n", False
        )
        files(
            program.directory,
            {"uses_made_up.py": "def f():\n    import made_up; return made_up.f()"},
        )
        name, path = own_router.local().call(program.load("uses_made_up").f)
        assert name == "made_up" and "<made up>" in path

    def test_lists_apply_through_an_intermediate_context(self, program, own_router):
        files(
            program.directory,
            {"secret_keys.py": "X = 1", "asks_keys.py": "def f():\n    import secret_keys"},
        )
        own_router.responder.blacklist_prefix("secret_keys")
        asks = program.load("asks_keys")
        far = own_router.local(via=own_router.local())
        with pytest.raises(ImportError, match="blacklist"):
            far.call(asks.f)

    def test_forward_modules_sends_modules_before_any_call(self, program, own_router):
        files(program.directory, {"ahead.py": "def f():\n    return __name__"})
        ahead = program.load("ahead")
        child = own_router.local()
        own_router.responder.forward_modules(child, ["ahead"])
        before = count_requests(own_router)
        assert child.call(ahead.f) == "ahead" and count_requests(own_router) == before
