"""errors.py: tracebacks from children get the original lines of this library's files."""

import pytest

import mitogen
from mitogen import core
from mitogen.calls import errors

#: A non-empty line of errors.py.
LINE = 11
FRAME = '  File "master:{}", line {}, in f\n'


def line_of(module, number):
    with open(module.__file__, encoding="utf-8") as fp:
        return fp.read().splitlines()[number - 1].strip()


def test_own_frames_have_the_lines_of_local_files():
    core_frame = FRAME.format("mitogen/core/dispatcher.py", 1)
    other_frame = FRAME.format(errors.__file__, LINE)
    text = core_frame + "    r=u(*l,**n)\n      ^^^^\n" + other_frame + "    import os\n"
    assert errors.with_own_lines(text) == (
        core_frame + '    """\n' + other_frame + "    %s\n" % line_of(errors, LINE)
    )


def test_a_frame_without_text_gets_its_line():
    frame = FRAME.format(errors.__file__, LINE)
    assert errors.with_own_lines(frame) == frame + "    %s\n" % line_of(errors, LINE)


@pytest.mark.parametrize(
    "path, number",
    [
        ("/etc/passwd", 1),
        ("mitogen/../../../etc/passwd", 1),
        ("/srv/program.py", 3),
        ("mitogenx/core/io.py", 1),
    ],
)
def test_lines_of_other_files_are_unchanged(path, number):
    text = FRAME.format(path, number) + "    secret = 1\n    ^^^\n"
    assert errors.with_own_lines(text) == text


@pytest.mark.parametrize("number", [0, 10**6])
def test_missing_line_is_omitted(number):
    frame = FRAME.format("mitogen/core/io.py", number)
    assert errors.with_own_lines(frame + "    x\n") == frame


def test_text_between_tracebacks_is_kept():
    frame = FRAME.format("mitogen/core/dispatcher.py", 1)
    text = "a\n" + frame + "    m\n" + "ValueError: x\n" + frame + "    m\nend"
    line = '    """\n'
    assert errors.with_own_lines(text) == "a\n%s%sValueError: x\n%s%send" % (
        frame,
        line,
        frame,
        line,
    )


def test_in_a_child_nothing_is_replaced(monkeypatch):
    monkeypatch.delattr(mitogen, "__file__")
    text = FRAME.format("mitogen/core/io.py", 1) + "    m\n"
    assert errors.with_own_lines(text) == text


def test_restored_error_has_the_lines():
    frame = FRAME.format("mitogen/core/dispatcher.py", 1)
    fields = ["builtins.ValueError", "x", frame + "    m\n", "builtins.ValueError: x\n" + frame]
    error = errors.restore_call_error(fields)
    assert isinstance(error, ValueError) and isinstance(error, core.CallError)
    assert error.traceback == frame + '    """\n'
    assert str(error) == "builtins.ValueError: x\n" + frame + '    """\n'
