"""Checks of a row of api_names.py by inspection, for test_compatibility.py and the reference
page.
"""

import importlib
import inspect

from tests.unit import api_names

__all__ = ["MISSING", "differences", "find", "has_more", "signature_of"]

MISSING = object()
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def find(row):
    """Return the object that a row names, found without an instance; or MISSING."""
    found = importlib.import_module(row.module)
    for part in row.name.split("."):
        found = getattr(found, part, MISSING)
        if found is MISSING:
            return MISSING
    return found


def signature_of(row, found):
    """Return the signature as seen by a caller, without self and cls; None if there is none."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if row.kind == "method" and inspect.isfunction(found) and row.owner and not is_static(row):
        parameters = parameters[1:]
    return parameters


def is_static(row):
    """Return whether a method is a static one."""
    owner = find(row._replace(name=row.owner))
    return isinstance(inspect.getattr_static(owner, row.name.rpartition(".")[2]), staticmethod)


def expected(row):
    """Return the parameters of a row; their defaults are values, or `...` for any."""
    core = importlib.import_module("mitogen.core")
    names = dict(vars(core), Message=core.Message)
    function = eval("lambda %s: None" % row.parameters, names)
    return list(inspect.signature(function).parameters.values())


def _difference(parameter, place, ours):
    """Return the difference in one parameter as text, or None."""
    by_name = {each.name: each for each in ours}
    if parameter.kind in VARIABLE:
        fits = any(each.kind == parameter.kind for each in ours)
        return None if fits else "takes no %s" % parameter
    if parameter.kind == inspect.Parameter.POSITIONAL_ONLY:
        fits = len(ours) > place and ours[place].kind in POSITIONAL + VARIABLE[:1]
        return None if fits else "takes no argument at position %d" % place
    found = by_name.get(parameter.name)
    if found is None:
        return "takes no %r" % parameter.name
    if found.kind not in POSITIONAL or ours.index(found) != place:
        return "%r is not at position %d" % (parameter.name, place)
    if parameter.default is inspect.Parameter.empty:
        return None
    if found.default is inspect.Parameter.empty:
        return "%r has no default" % parameter.name
    if parameter.default is not ... and found.default != parameter.default:
        return "%r defaults to %r, not %r" % (parameter.name, found.default, parameter.default)
    return None


def differences(row, found):
    """Return the differences that would break a program, as a list of text."""
    ours = signature_of(row, found)
    if row.parameters is None or ours is None:
        return []
    left_out = api_names.WITHOUT.get(row.dotted, {})
    wanted = [each for each in expected(row) if each.name not in left_out]
    wrong = [_difference(each, place, ours) for place, each in enumerate(wanted)]
    for extra in ours[len(wanted) :]:
        needed = extra.default is inspect.Parameter.empty and extra.kind in POSITIONAL
        known = extra.name in [each.name for each in wanted]
        wrong.append("needs %r" % extra.name if needed and not known else None)
    return [text for text in wrong if text]


def has_more(row, found):
    """Return whether our function takes more parameters than the row has."""
    ours = signature_of(row, found)
    if row.parameters is None or ours is None:
        return False
    return len(ours) > len(expected(row))
