"""The generated pages are what the code says, and every handle is in docs/design/wire.rst."""

import importlib.util
import os

import pytest

from mitogen import calls, core, parent
from mitogen.compat import core_names
from mitogen.programs import grants

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs")


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
    """Each option has a row, with all its names; markup and values are readable."""
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


def test_every_handle_is_in_the_table():
    listed = {name for name, *_ in _generate().HANDLES}
    found = {}
    for module in (core, core_names, parent, calls, grants):
        for name, value in vars(module).items():
            if name.isupper() and type(value) is int and 100 <= value < 200:
                assert found.setdefault(name, value) == value, f"{name} has two numbers"
    assert set(found) == listed
    assert len(set(found.values())) == len(found), "two handles share a number"
