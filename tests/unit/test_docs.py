"""The generated pages match the code, and every handle is in docs/design/wire.rst."""

import ast
import importlib.util
import os
import re

import pytest

from tests.checkout import ROOT

DOCS = str(ROOT / "docs")


def _generate():
    spec = importlib.util.spec_from_file_location("generate", os.path.join(DOCS, "generate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["wire", "compatibility", "settings"])
def test_a_page_is_up_to_date(name):
    generate = _generate()
    path = getattr(generate, name.upper())
    with open(path, encoding="utf-8") as fp:
        assert fp.read() == generate.PAGES[path](), "run python3 docs/generate.py"


def test_the_generator_writes_all_pages(tmp_path, monkeypatch):
    generate = _generate()
    makers = list(generate.PAGES.values())
    pages = {str(tmp_path / f"{make.__name__}.rst"): make for make in makers}
    monkeypatch.setattr(generate, "PAGES", pages)
    for _ in range(2):
        generate.main()
        for path, make in pages.items():
            with open(path, encoding="utf-8") as fp:
                assert fp.read() == make()


def test_settings():
    """Each option has a row with all its names; markup and values are readable."""
    generate = _generate()
    text = generate.settings()
    found = {**generate.callback_options(), **generate.common_options()}
    assert {"redirect", "pipelining"} <= set(found)
    for options in [found, *generate.kinds().values()]:
        for name, option in options.items():
            assert f"``{name}``" in text
            for each in option.get("vars", []) + option.get("env", []):
                assert f"``{each['name']}``" in text
            for each in option.get("ini", []):
                assert f"``[{each['section']}] {each['key']}``" in text
    assert "boolean, ``true``" in text and "list, ``ssh, local``" in text
    assert not any(mark in text for mark in ("C(", "P(", "None", "True", "False"))


#: Constants of mitogen/ whose numbers look like handles but are not.
NO_HANDLES = {"BACKLOG", "BATCH_ENTRIES", "FIRST_UNKNOWN", "KEPT_LINES", "MAX_PATH"}


def _constants():
    """Yield (name, integer) of each constant at module level in mitogen/."""
    for path in sorted((ROOT / "mitogen").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                for target in node.targets:
                    if isinstance(target, ast.Name) and type(node.value.value) is int:
                        yield target.id, node.value.value


def test_every_handle_is_in_the_table():
    listed = {name for name, *_ in _generate().HANDLES}
    found = {}
    for name, value in _constants():
        if name.isupper() and 100 <= value < 200 and name not in NO_HANDLES:
            assert found.setdefault(name, value) == value, f"{name} has two numbers"
    assert set(found) == listed
    assert len(set(found.values())) == len(found), "two handles share a number"


def test_files_that_pages_name_exist():
    pages = [*(ROOT / "docs").rglob("*.rst"), *ROOT.glob("*.rst")]
    folders = "mitogen|tests|bench|examples|docs|scripts"
    pattern = re.compile(rf"(?<![\w./-])(?:{folders})/[\w./-]*\w")
    named = {(page, name) for page in pages for name in pattern.findall(page.read_text("utf-8"))}
    missing = {f"{page.name}: {name}" for page, name in named if not (ROOT / name).exists()}
    assert sorted(missing - {"CONTRIBUTING.rst: tests/unit/test_x.py"}) == []  # an example
    assert {"scripts/test", "tests/unit/test_layering.py"} <= {name for _, name in named}
