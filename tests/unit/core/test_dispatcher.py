"""core.Dispatcher: calls on a child's main thread; construction of core.CallError."""

import sys
import types

import pytest

from mitogen import core
from mitogen.calls import first_call
from mitogen.calls.chain import CallChain
from mitogen.core import CallError, takes_econtext, takes_router
from mitogen.core.mailbox import Receiver

SEEN = []


def note(value=None):
    SEEN.append(value)
    return value


@takes_econtext
def with_econtext(econtext):
    return type(econtext).__name__


@takes_router
def with_router(value, router):
    return value, router.node.context_id


def unsendable():
    return {"a": [object()]}


def raise_it(name):
    raise getattr(sys.modules[__name__], name)()


class BadText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Text(str):
    pass


class TextOfItsOwn(Exception):
    def __str__(self):
        return Text("text")


def large(size):
    return bytes(size)


@pytest.fixture
def pair(net):
    del SEEN[:]
    master, one = net.line(2)
    one.dispatcher()
    return master, one, master.context(one)


def serve(one):
    one.serving = True


def test_calls_run_in_order_on_the_thread_of_run(pair):
    master, one, there = pair
    receivers = [there.call_async(note, number) for number in range(5)]
    master.net.pump()
    assert SEEN == []
    one.run_calls()
    assert SEEN == [0, 1, 2, 3, 4]
    master.net.pump()
    assert [each.get().unpickle() for each in receivers] == SEEN


def test_answers_are_written_together(pair):
    master, one, there = pair
    for number in range(3):
        there.call_async(note, number)
    master.net.pump()
    one.run_calls()
    assert [cork for _, cork in one.up.sent[-3:]] == [True, True, False]


def test_a_call_wakes_the_thread_once(pair):
    master, one, there = pair
    dispatcher = one.router.econtext.dispatcher
    woken = []
    dispatcher.lock = types.SimpleNamespace(release=lambda: woken.append(True))
    dispatcher.asleep = True
    there.call_async(note)
    there.call_async(note)
    master.net.pump()
    assert woken == [True] and not dispatcher.asleep


def test_run_sleeps_and_ends(pair):
    _, one, _ = pair
    dispatcher = one.router.econtext.dispatcher
    dispatcher.lock.acquire = lambda: dispatcher.end()
    dispatcher.run()
    assert dispatcher.ended


def test_injected_arguments(pair):
    master, one, there = pair
    serve(one)
    assert there.call(with_econtext) == "SimpleNamespace"
    assert there.call(with_router, 7) == (7, 1)


def test_unsendable_result_is_an_error(pair):
    master, one, there = pair
    serve(one)
    with pytest.raises(CallError, match=r"result\['a'\]\[0\]: ") as info:
        there.call(unsendable)
    assert info.value.type_name == "mitogen.core.EncodeError"
    assert there.call(note, 1) == 1


@pytest.mark.parametrize(
    "name, why",
    [
        ("no_such_module\0\0f\0", "ModuleNotFoundError"),
        (__name__ + "\0\0no_such_function\0", "AttributeError"),
        (__name__ + "\0NoSuchClass\0f\0", "AttributeError"),
        (__name__ + "\0\0SEEN\0", "not callable"),
        ("only one part", "ValueError"),
        (3, "AttributeError"),
    ],
)
def test_missing_function_is_an_error(pair, name, why):
    master, one, there = pair
    serve(one)
    answers = master.ask(one, core.CALL_FUNCTION, core.encode([name, [], {}]), flags=0)
    master.net.pump()
    with pytest.raises(CallError, match=why):
        answers[0].unpickle()
    assert there.call(note, 1) == 1


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", core.encode(3), core.encode(["a", 1, 2])])
def test_malformed_call_is_an_error(pair, data):
    master, one, there = pair
    serve(one)
    answers = master.ask(one, core.CALL_FUNCTION, data, flags=0)
    master.net.pump()
    with pytest.raises(CallError):
        answers[0].unpickle()
    assert there.call(note, 1) == 1


def test_dead_message_is_not_a_call(pair):
    master, one, _ = pair
    master.router.route(core.Message.dead("x", dst_id=1, handle=core.CALL_FUNCTION))
    master.net.pump()
    assert not one.router.econtext.dispatcher.queue


def test_the_main_program_is_imported_first(pair):
    master, one, there = pair
    serve(one)
    imported = []
    one.router.econtext.import_main = lambda: imported.append(True)
    name = "__main__\0\0__name__\0"
    answers = master.ask(one, core.CALL_FUNCTION, core.encode([name, [], {}]), flags=0)
    master.net.pump()
    assert imported == [True] and answers


def test_the_context_is_prepared_before_the_first_call(pair, monkeypatch):
    master, one, there = pair
    serve(one)
    econtext = one.router.econtext
    econtext.stdout_log, prepared = None, []

    def install(found, msg):
        assert found is econtext
        prepared.append((msg.data[0], list(SEEN)))
        econtext.stdout_log = True

    monkeypatch.setattr(first_call, "install", install)
    there.call(note, 1)
    there.call(note, 2)
    assert prepared == [(0x83, [])]


def test_diverted_first_call_is_not_run(pair, monkeypatch):
    master, one, there = pair
    serve(one)
    econtext = one.router.econtext
    econtext.stdout_log = None
    monkeypatch.setattr(first_call, "install", lambda found, msg: True)
    before = list(SEEN)
    there.call_no_reply(note, 1)
    master.net.pump()
    assert before == SEEN


def test_return_of_a_function_returns_credit(pair):
    master, one, there = pair
    serve(one)
    for _ in range(10):
        there.call(note, bytes(1 << 20))
    assert master.net.time == 1000 and not master.router.flows[(1, core.CALL_FUNCTION)].queue


def test_chain_error_is_kept_until_reset(pair):
    master, one, there = pair
    serve(one)
    chain = CallChain(there, pipelined=True)
    chain.call_no_reply(note, 1)
    chain.call_no_reply(unsendable)
    chain.call_no_reply(note, 2)
    master.net.pump()
    dispatcher = one.router.econtext.dispatcher
    assert SEEN == [1] and list(dispatcher.errors) == [chain.chain_id]
    core.Dispatcher.forget_chain(chain.chain_id, one.router.econtext)
    core.Dispatcher.forget_chain("unknown", one.router.econtext)
    assert not dispatcher.errors


# ---- errors about errors

ODD = ["BadText", "TextOfItsOwn"]


@pytest.mark.parametrize("name", ODD)
def test_an_exception_with_a_bad_text_is_an_error_of_the_call(pair, name):
    master, one, there = pair
    serve(one)
    with pytest.raises(CallError, match=name):
        there.call(raise_it, name)


def test_a_result_that_is_too_large_is_an_error(pair):
    master, one, there = pair
    serve(one)
    for node in (master, one):
        node.router.max_message_size = 10000
    with pytest.raises((CallError, core.ChannelError), match="too large"):
        there.call(large, 20000)


def test_a_reply_that_is_too_large_is_an_error(pair):
    master, one, there = pair
    for node in (master, one):
        node.router.max_message_size = 10000
    one.router.add_handler(lambda msg: msg.reply(bytes(20000)), 1000)
    with pytest.raises((CallError, core.ChannelError), match="too large"):
        there.send_await(core.Message(handle=1000))


def test_a_message_too_large_for_a_mailbox_is_refused(pair):
    master, one, there = pair
    receiver = Receiver(one.router, 1000)
    master.router.max_message_size = 10000
    with pytest.raises(core.EncodeError, match="too large"):
        master.send(one, 1000, bytes(20000))
    master.net.pump()
    assert receiver.empty()
