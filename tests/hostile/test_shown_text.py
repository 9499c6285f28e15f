"""Text from a child is escaped where it is shown: no terminal obeys it, no log line is forged."""

import io
import logging

import pytest

from mitogen import core
from mitogen.calls.errors import restore_call_error
from mitogen.limits.display import MAX_NAME, shown, shown_name

#: Erases the screen, sets the title, goes back to the margin, and looks like another record.
EVIL = "ok\x1b[2J\x1b]0;title\x07\r\n12:00:00 1 E root: all is well\x9b5m\u202e"


def assert_harmless(text):
    lines = text.split("\n")
    assert all(line[:1] in ("", " ", "\t") for line in lines[1:]), text
    assert all(c >= " " or c in "\n\t" for c in text), text
    assert not set(text) & set(map(chr, range(127, 160))) and "\u202e" not in text
    text.encode()


@pytest.mark.parametrize("text", [EVIL, "\udc80", "\u2028x", "\0", "a\rb", "\x85", "\x7f\x80\x9f"])
def test_both_forms_are_harmless(text):
    assert_harmless(shown(text))
    assert_harmless(shown_name(text))
    assert "\n" not in shown_name(text)


def test_ordinary_text_is_unchanged():
    trace = 'ValueError: x\n  File "a.py", line 1, in f\n    f()\n\tcaf\u00e9 \U0001f600\n'
    assert shown(trace) == trace and shown_name("h\u00f6st-1.example:8") == "h\u00f6st-1.example:8"


def test_long_text_is_cut():
    assert shown("x" * 50, 10) == "x" * 10 + "... (40 more characters)"
    assert len(shown_name("x" * 10**6)) < MAX_NAME + 40


def test_a_log_record_is_escaped(master, forged, records):
    forged.send(core.FORWARD_LOG, ["app", logging.INFO, EVIL, EVIL, 3, EVIL])
    record = records.wait_for("title")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s %(pathname)s %(funcName)s: %(message)s"))
    handler.handle(record)
    assert stream.getvalue().endswith("\n")
    assert_harmless(stream.getvalue()[:-1])
    assert record.mitogen_raw == EVIL
    assert_harmless(record.mitogen_message)


def test_an_undecodable_record_is_escaped(master, forged, records):
    forged.send(core.FORWARD_LOG, [EVIL])
    assert_harmless(records.wait_for("cannot decode").getMessage())


def test_an_error_is_escaped():
    fields = [EVIL, EVIL, EVIL, EVIL]
    error = restore_call_error(fields)
    assert_harmless(str(error))
    assert_harmless(error.type_name)
    assert_harmless(error.traceback)
    assert error.message == EVIL
    # Passed on, it is escaped no further.
    again = core.decode(core.encode(error))
    assert str(again) == str(error) and again.message == EVIL


def test_an_error_from_a_child_is_escaped(master, honest):
    with pytest.raises(ValueError) as caught:
        honest.call(fail_with, EVIL)
    assert_harmless(str(caught.value))
    assert caught.value.message == EVIL


def fail_with(text):
    raise ValueError(text)


def test_the_reason_of_a_dead_message_is_escaped():
    with pytest.raises(core.ChannelError) as caught:
        core.Message.dead(EVIL).unpickle()
    assert_harmless(str(caught.value))
    with pytest.raises(core.ChannelError, match="it's gone"):
        core.Message.dead("it's gone").unpickle()


def test_records_of_the_router_are_escaped(master, records):
    master.log(logging.ERROR, "dropped: %s", EVIL)
    assert_harmless(records.wait_for("dropped").getMessage())
