"""docs/design/wire.rst is what the code says, and every handle is in it."""

import importlib.util
import os

from mitogen import aliases, calls, core, parent

DOCS = os.path.join(os.path.dirname(__file__), "..", "..", "docs")


def _generate():
    spec = importlib.util.spec_from_file_location("generate", os.path.join(DOCS, "generate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    generate = _generate()
    with open(generate.PAGE, encoding="utf-8") as fp:
        assert fp.read() == generate.page(), "run python3 docs/generate.py"


def test_every_handle_is_in_the_table():
    listed = {name for name, *_ in _generate().HANDLES}
    found = {}
    for module in (core, aliases, parent, calls):
        for name, value in vars(module).items():
            if name.isupper() and type(value) is int and 100 <= value < 200:
                assert found.setdefault(name, value) == value, f"{name} has two numbers"
    assert set(found) == listed
    assert len(set(found.values())) == len(found), "two handles share a number"
