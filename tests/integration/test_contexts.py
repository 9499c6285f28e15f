"""A context behaves the same no matter how it was reached."""

import datetime
import logging
import os
import pwd

import pytest

import mitogen.core
from tests import processes
from tests.integration.conftest import SOON, own_children
from tests.integration.far import work

MEGABYTE = bytes(range(256)) * 4096


def test_runs_as_the_requested_account(reached):
    pid, user, _ = reached.context.call(work.identity)
    assert pid != os.getpid()
    assert user == (reached.user or pwd.getpwuid(os.geteuid()).pw_name)


def test_passes_positional_and_keyword_arguments(context):
    assert context.call(work.add, 1) == (3, (), {})
    assert context.call(work.add, 1, 4, 5, 6, c=[7]) == (5, (5, 6), {"c": [7]})
    assert context.call(work.add, b=1, a=0) == (1, (), {})


def test_a_module_arrives_with_its_imports(context):
    module, imported, text = context.call(work.origin)
    assert module.endswith("tests/integration/far/work.py")
    assert imported.endswith("tests/integration/far/parts.py")
    assert text == "far awayfar away"


def test_an_error_has_its_type_its_text_and_the_remote_traceback(context):
    with pytest.raises(ValueError, match="as expected") as caught:
        context.call(work.fail, "as expected")
    error = caught.value
    assert isinstance(error, mitogen.core.CallError)
    assert error.type_name == "builtins.ValueError"
    assert "in fail_inside" in str(error) and "in fail\n" in str(error)
    assert "far/work.py" in str(error)


def test_frames_of_the_library_have_its_real_lines_in_a_traceback(context):
    with pytest.raises(ValueError) as caught:
        context.call(work.fail, "as expected")
    assert "/core/dispatcher.py" in str(caught.value)
    assert "\n    result = func(*args, **kwargs)\n" in str(caught.value)


def test_an_error_of_an_unknown_type_is_a_call_error_that_names_it(context):
    with pytest.raises(mitogen.core.CallError, match="as expected") as caught:
        context.call(work.fail_own, "as expected")
    assert caught.value.type_name == "tests.integration.far.work.OwnError"


def test_output_and_log_messages_arrive_as_records(context, records):
    text = "by context {}".format(context.context_id)
    context.call(work.chatter, text)
    # The three take different routes, so their order is not defined.
    found = {}
    while len(found) < 3:
        record = records.wait_for(text)
        found[record.getMessage().partition(": ")[2] or record.getMessage()] = record
    printed = next(r for t, r in found.items() if t.startswith("printed"))
    logged = next(r for t, r in found.items() if t.startswith("logged"))
    complained = next(r for t, r in found.items() if t.startswith("complained"))
    assert printed.levelno == complained.levelno == logging.INFO
    assert printed.name.startswith("stdout.[") and complained.name.startswith("stderr.[")
    assert logged.levelno == logging.WARNING
    assert logged.name.startswith("far.work.[")
    assert logged.funcName == "chatter" and logged.pathname.endswith("far/work.py")
    assert printed.mitogen_context == context


def test_calls_can_be_concurrent(context):
    receivers = [context.call_async(work.add, number) for number in range(50)]
    answers = [receiver.get(timeout=SOON).unpickle()[0] for receiver in receivers]
    assert answers == list(range(2, 52))


def test_a_sender_streams_to_the_master(reached):
    receiver = mitogen.core.Receiver(reached.router)
    done = reached.context.call_async(work.count_to, receiver.to_sender(), 300)
    assert [msg.unpickle() for msg in receiver] == list(range(300))
    assert done.get(timeout=SOON).unpickle() is None


def test_a_sender_streams_to_the_context(reached):
    receiver = mitogen.core.Receiver(reached.router)
    total = reached.context.call_async(work.sum_of_mailbox, receiver.to_sender())
    sender = receiver.get(timeout=SOON).unpickle()
    work.count_to(sender, 300)
    assert total.get(timeout=SOON).unpickle() == sum(range(300))


def test_a_megabyte_makes_the_round_trip(context):
    assert context.call(work.checksum, MEGABYTE) == work.checksum(MEGABYTE)
    assert context.call(work.echo, MEGABYTE) == MEGABYTE


def test_shutdown_leaves_no_process(connect, own_router):
    before = own_children()
    context = connect(own_router).context
    far_pid = context.call(work.identity)[0]
    assert processes.alive(far_pid)
    context.shutdown(wait=True)
    if context.via is None:
        # The process was reaped, not just asked to end.
        assert processes.process(far_pid) is None
        assert own_children() <= before
    processes.wait_until(lambda: not processes.alive(far_pid), what="end of the context")
    with pytest.raises(mitogen.core.ChannelError):
        context.call(work.identity)


def test_a_fork_runs_its_hooks_before_it_serves(own_router):
    seen = []
    context = own_router.fork(
        on_fork=lambda: seen.append("fork"),
        on_start=lambda econtext: os.environ.update(
            MITOGEN_FORK_SAW="%s %d" % (seen, econtext.context.context_id)
        ),
    )
    assert context.call(os.getenv, "MITOGEN_FORK_SAW") == "['fork'] %d" % context.context_id
    assert seen == []


def test_the_name_of_a_context_contains_its_path(own_router):
    near = own_router.local(name="a")
    far = own_router.local(via=near, name="b")
    last = own_router.local(via=far)
    assert (near.name, far.name) == ("a", "a.b")
    assert last.name.startswith("a.b.local.")


def test_values_of_standard_types_make_the_round_trip(context):
    import datetime
    import decimal
    import pathlib
    import subprocess

    values = [
        {1, "a", (2, 3)},
        datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        pathlib.PurePosixPath("/a/b"),
        pathlib.Path("/a/b"),
        decimal.Decimal("1.10"),
        subprocess.CompletedProcess(["a"], 3, b"out", "err"),
    ]
    for value in values:
        found = context.call(work.echo, value)
        assert type(found) is type(value)
        # CompletedProcess has no equality; the order in a set's repr is arbitrary.
        assert found == value or repr(found) == repr(value)


def test_a_long_error_message_arrives(context):
    text = "x" * 20000 + "end"
    with pytest.raises(ValueError) as caught:
        context.call(work.fail, text)
    assert caught.value.message == text and text in str(caught.value)


def test_sys_exit_is_an_error_of_the_call(context):
    pid = context.call(work.identity)[0]
    with pytest.raises(mitogen.core.CallError, match="SystemExit: 3"):
        context.call(work.leave, 3)
    assert context.call(work.identity)[0] == pid


def test_methods_of_built_in_classes_are_called(own_router):
    child = own_router.local()
    assert child.call(dict.fromkeys, "ab") == {"a": None, "b": None}
    assert child.call(bytes.fromhex, "00ff") == b"\x00\xff"
    assert child.call(str.upper, "x") == "X"
    assert isinstance(child.call(datetime.datetime.now), datetime.datetime)
