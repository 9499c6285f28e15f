"""Recognition of Ansible's commands that are a Python reading a script; scripts in parts."""

import base64
import os
import shlex

import pytest
from hypothesis import given, strategies as st

from mitogen.ansible.agent import runner, zygote
from mitogen.ansible.broker import scripts


def sh(command):
    return "/bin/sh -c " + shlex.quote(command)


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        (sh("echo a"), "echo a"),
        (sh("echo 'a b'; exit 3"), "echo 'a b'; exit 3"),
        ("/bin/sh -c x y", None),
        ("/bin/bash -c x", None),
        ("echo a", None),
        ("/bin/sh -c 'unfinished", None),
        ("", None),
    ],
)
def test_inner_command(command, inner):
    assert scripts.inner_command(command) == inner


@pytest.mark.parametrize(
    ("command", "interpreter", "environment"),
    [
        ("/usr/bin/python3", "/usr/bin/python3", {}),
        ("/usr/bin/python3 && sleep 0", "/usr/bin/python3", {}),
        ("/opt/py-3.9_x/bin/python3.9", "/opt/py-3.9_x/bin/python3.9", {}),
        ("python", "python", {}),
        ("A=1 B='two words' /usr/bin/python3", "/usr/bin/python3", {"A": "1", "B": "two words"}),
        ("A= /usr/bin/python3", "/usr/bin/python3", {"A": ""}),
        ("A='x=y' /usr/bin/pypy3", "/usr/bin/pypy3", {"A": "x=y"}),
    ],
)
def test_a_python_reading_a_script_is_recognized(command, interpreter, environment):
    assert scripts.piped_python(command) == (interpreter, environment)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "   ",
        "/usr/bin/python3 -u",
        "/usr/bin/python3 script.py",
        "/usr/bin/env python3",
        "/usr/bin/perl",
        "/usr/bin/python3; rm -rf x",
        "/usr/bin/python3 && rm x",
        "/usr/bin/python3 | cat",
        "cd x && /usr/bin/python3",
        "A=$HOME /usr/bin/python3",
        "A=`id` /usr/bin/python3",
        'A="$B" /usr/bin/python3',
        "A=1",
        "'unfinished",
        "$PYTHON",
        "/usr/bin/python3 && sleep 1",
        "/usr/bin/pythonic/x",
    ],
)
def test_other_commands_are_not_recognized(command):
    assert scripts.piped_python(command) is None


def joined(script):
    return b"".join(data for _, data in scripts.Divider().parts(script))


@given(st.binary(max_size=3000))
def test_parts_add_up_to_the_script(script):
    assert joined(script) == script


@given(st.lists(st.binary(min_size=1, max_size=90), min_size=30, max_size=200), st.integers(0, 29))
def test_a_change_affects_only_its_part(lines, at):
    lines = [line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
    before = dict(scripts.Divider().parts(b"\n".join(lines)))
    changed = [*lines[:at], b"parameters", *lines[at + 1 :]]
    parts = scripts.Divider().parts(b"\n".join(changed))
    new = [data for digest, data in parts if digest not in before]
    assert len(new) <= 2


def test_a_long_line_is_a_part_by_itself():
    blob = b"A" * 100000 + b"\n"
    parts = [data for _, data in scripts.Divider().parts(b"one\n" + blob + b"two\n")]
    assert blob in parts


def test_an_empty_script_has_no_parts():
    assert scripts.Divider().parts(b"") == []


def wrapped(data):
    return b"zip_data='%s',\n" % base64.b64encode(data)


ZIP = b"PK\3\4" + os.urandom(4001)


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (wrapped(ZIP), [b"zip_data='", ZIP, b"',\n"]),
        (wrapped(ZIP + b"x"), [b"zip_data='", ZIP + b"x", b"',\n"]),
        (b"", b""),
        (b"a line\n", b"a line\n"),
        # No zip; invalid base64; base64 in a form that encoding the zip would not give.
        (wrapped(b"x" * 4000), wrapped(b"x" * 4000)),
        (b"'UEsDB" + b"A" * 2000 + b"'", b"'UEsDB" + b"A" * 2000 + b"'"),
        (b"'UEsDB" + b"A" * 2000 + b"B=='", b"'UEsDB" + b"A" * 2000 + b"B=='"),
    ],
)
def test_a_zip_is_sent_without_base64(data, sent):
    assert scripts.pack(data) == sent
    assert runner.unpack(sent) == data


def test_both_ends_use_the_same_pattern_for_a_zip():
    # The zygote imports nothing of mitogen, and the broker process not the zygote's imports.
    assert scripts._BASE64.pattern == zygote.ZIP.pattern
