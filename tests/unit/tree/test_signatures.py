"""mitogen.tree.signatures: the declared options equal those of the connection methods."""

import ast
import inspect
import subprocess
import sys

import pytest

from mitogen import parent
from mitogen.methods import connection
from mitogen.tree import signatures

ROUTERS_OWN = ["name", "via"]


def common_options():
    """Return the options behind `**kwargs: Unpack[Common]`, read from the source."""
    tree = ast.parse(inspect.getsource(signatures))
    (common,) = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == "Common"]
    return [node.target.id for node in common.body if isinstance(node, ast.AnnAssign)]


def declared(method):
    """Return {option: default} of a method of Methods; `...` for a default that is not given."""
    parameters = dict(inspect.signature(getattr(signatures.Methods, method)).parameters)
    assert parameters.pop("self").kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    rest = parameters.pop("kwargs", None)
    assert {each.kind for each in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(parameters)[-2:] == ROUTERS_OWN
    found = {name: each.default for name, each in parameters.items() if name not in ROUTERS_OWN}
    if rest is not None and rest.annotation == "Unpack[Common]":
        found.update(dict.fromkeys(common_options(), ...))
    return found


def taken(cls):
    """Return {option: default} of an Options class and, if it has **kwargs, of its base."""
    found = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            base = connection.Options
            known = {n: p.default for n, p in inspect.signature(base).parameters.items()}
            found.update({name: value for name, value in known.items() if name not in found})
        else:
            found[parameter.name] = parameter.default
    return {name: value for name, value in found.items() if name not in ROUTERS_OWN}


def test_every_method_is_declared():
    methods = [name for name in vars(signatures.Methods) if name[0] != "_"]
    assert sorted(methods) == sorted(parent.METHODS)


def test_options_of_every_method():
    known = inspect.signature(connection.Options).parameters
    assert common_options() == [name for name in known if name != "name"]


@pytest.mark.parametrize("method", sorted(parent.METHODS))
def test_declared_options_are_accepted(method):
    options = taken(parent.get_connection_class(method).options_class)
    says = declared(method)
    if method == "command":
        # Also the options that its argv= names.
        options = {name: value for name, value in options.items() if name not in common_options()}
    assert set(says) == set(options)
    for name, default in says.items():
        assert default is ... or default == options[name], name


@pytest.mark.parametrize("method", sorted(parent.METHODS))
def test_docstring_of_a_method_names_its_options_class(method):
    text = getattr(signatures.Methods, method).__doc__
    module = parent.get_connection_class(method).options_class.__module__
    assert module.rpartition(".")[2] + "." in text


def test_signatures_is_never_imported():
    program = (
        "import sys, mitogen.master, mitogen.aio; print('mitogen.tree.signatures' in sys.modules)\n"
        "import mitogen.tree.signatures; print('mitogen.tree.signatures' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\nTrue\n", done.stderr
