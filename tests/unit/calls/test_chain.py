"""chain.py: names of functions, calls and results, chains, deadlines, cancels, CallError."""

import builtins
import datetime
import functools
import os
import signal

import pytest

from mitogen import core, parent
from mitogen.calls import first_call
from mitogen.calls.chain import CANCEL_GRACE, CallChain, name_function
from mitogen.core import CallError, ChannelError, EncodeError, StreamError
from mitogen.core.mailbox import Receiver
from tests.unit import nodes


def add(one, two=0):
    return one + two


def echo(*args, **kwargs):
    return args, kwargs


def fail(kind="ValueError", *args):
    raise getattr(builtins, kind)(*args)


class Klass:
    @classmethod
    def who(cls):
        return cls.__name__

    @staticmethod
    def static(value):
        return [value]

    def method(self):
        pass

    class Inner:
        @classmethod
        def who(cls):
            return cls.__qualname__


class Heir(Klass):
    pass


class Callable:
    def __call__(self):
        pass


def outer():
    def inner():
        pass

    return inner


@pytest.fixture
def pair(net):
    """A master and a child that runs its calls whenever a thread waits."""
    master, one = net.line(2)
    one.dispatcher(serve=True)
    return master, one


@pytest.fixture
def there(pair):
    master, one = pair
    return master.context(one)


# ---- names of functions

HERE = __name__


@pytest.mark.parametrize(
    "fn, name",
    [
        (add, (HERE, "", "add")),
        (os.path.join, (os.path.__name__, "", "join")),
        (os.getpid, ("posix", "", "getpid")),
        (len, ("builtins", "", "len")),
        (int, ("builtins", "", "int")),
        (Klass, (HERE, "", "Klass")),
        (Klass.who, (HERE, "Klass", "who")),
        (Heir.who, (HERE, "Heir", "who")),
        (Klass.Inner.who, (HERE, "Klass.Inner", "who")),
        (Klass.static, (HERE, "Klass", "static")),
        (dict.fromkeys, ("builtins", "dict", "fromkeys")),
        (str.upper, ("builtins", "str", "upper")),
        (datetime.datetime.now, ("datetime", "datetime", "now")),
    ],
)
def test_names(fn, name):
    assert name_function(fn) == name


@pytest.mark.parametrize(
    "fn, why",
    [
        (lambda: 0, "lambda functions cannot be called in another context"),
        (outer(), "outer.<locals>.inner cannot be called .* it is defined inside a function"),
        (Klass().method, "is a method of an instance"),
        ([].append, "is a method of an instance"),
        ("".join, "(is a method of an instance|is not a function)"),
        (functools.partial(add, 1), "is not a function"),
        (Callable(), "is not a function"),
        (3, "is not a function"),
        (None, "is not a function"),
    ],
)
def test_functions_without_a_name_are_refused(there, fn, why):
    with pytest.raises(TypeError, match=why):
        name_function(fn)
    for call in (there.call, there.call_async, there.call_no_reply):
        with pytest.raises(TypeError, match=why):
            call(fn)


def test_refused_call_leaves_no_state(pair, there):
    master, _ = pair
    before = dict(master.router.handlers), len(master.down[1].sent)
    for args in ((lambda: 0,), (add, object())):
        for call in (there.call, there.call_async, there.call_no_reply):
            with pytest.raises(TypeError):
                call(*args)
    assert (dict(master.router.handlers), len(master.down[1].sent)) == before


def test_an_argument_that_cannot_be_sent_is_named(there):
    with pytest.raises(EncodeError, match=r"args\[1\]\['a'\]: "):
        there.call(add, 1, {"a": object()})
    with pytest.raises(EncodeError, match=r"kwargs\['two'\]"):
        there.call(add, 1, two=object())


# ---- calls and results


@pytest.mark.parametrize(
    "fn, args, kwargs, result",
    [
        (add, (1,), {"two": 2}, 3),
        (echo, (), {}, ((), {})),
        (
            echo,
            (None, "x", b"y"),
            {"z": [1.5, {"a": (1,)}]},
            ((None, "x", b"y"), {"z": [1.5, {"a": (1,)}]}),
        ),
        (Klass.who, (), {}, "Klass"),
        (Heir.who, (), {}, "Heir"),
        (Klass.Inner.who, (), {}, "Klass.Inner"),
        (Klass.static, (1,), {}, [1]),
        (int, ("7",), {}, 7),
        (dict.fromkeys, ([1, 2],), {}, {1: None, 2: None}),
        (os.getpid, (), {}, os.getpid()),
    ],
)
def test_call(there, fn, args, kwargs, result):
    for _ in range(2):  # the second time with the cached name
        assert there.call(fn, *args, **kwargs) == result


def test_arguments_may_have_any_name(there):
    kwargs = {"fn": 1, "self": 2, "timeout": 3, "args": 4}
    assert there.call_async(echo, **{"timeout": 3}).get().unpickle() == ((), {"timeout": 3})
    with pytest.raises(TypeError):  # the two names of the parameters of Context.call()
        there.call(echo, **kwargs)


def test_call_takes_one_frame_each_way(pair, there):
    master, one = pair
    before = len(master.down[1].sent), len(one.up.sent)
    there.call(add, 1)
    assert (len(master.down[1].sent), len(one.up.sent)) == (before[0] + 1, before[1] + 1)


def test_results_come_in_any_order(pair, there):
    receivers = [there.call_async(add, number) for number in range(5)]
    assert [each.get().unpickle() for each in reversed(receivers)] == [4, 3, 2, 1, 0]
    assert isinstance(receivers[0], Receiver)


def test_no_reply(pair, there):
    master, one = pair
    there.call_no_reply(add, 1)
    there.call_no_reply(fail, "ValueError", "lost")
    master.net.pump()
    assert len(one.logs) == 1 and "call without answer" in one.logs[0]
    assert "ValueError: lost" in one.logs[0]


def test_modules_are_pushed_before(pair, there):
    master, _ = pair
    there.call(add, 1)
    assert master.router.branch.modules.pushed == [(1, [HERE])]


def test_through_two_hops_and_from_a_child(net):
    master, one, two = net.line(3)
    one.dispatcher(serve=True)
    two.dispatcher(serve=True)
    parent.upgrade(one.router)
    assert master.context(two).call(add, 40, 2) == 42
    assert one.context(two).call(add, 40, 2) == 42


def test_a_child_may_not_call_its_parent(net):
    master, one, two = net.line(3)
    one.dispatcher(serve=True)
    reply = two.ask(1, core.CALL_FUNCTION, CallChain(two.context(1)).make_msg(add, 1).data)
    net.pump()
    assert reply[0].data == b"refused by policy"


def test_a_lost_context(pair, there):
    master, one = pair
    one.serving = False
    one.broker.after(1, one.up.disconnect)
    with pytest.raises(ChannelError, match="the respondent Context has disconnected"):
        there.call(add, 1)
    with pytest.raises(ChannelError):
        there.call(add, 1)
    with pytest.raises(ChannelError):
        there.call_async(add, 1).get()


def test_the_end_of_the_broker(pair, there):
    master, one = pair
    one.serving = False
    one.broker.after(1, master.broker.end)
    with pytest.raises(ChannelError, match="Broker has exitted"):
        there.call(add, 1)


def test_interrupted_call_leaves_no_handler(pair, there, monkeypatch):
    master, one = pair
    one.serving = False
    handlers = set(master.router.handlers)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(nodes.Lock, "acquire", interrupted)
    with pytest.raises(KeyboardInterrupt):
        there.call(add, 1)
    assert set(master.router.handlers) == handlers


def test_cache_of_function_names_is_bounded(there, monkeypatch):
    monkeypatch.setattr("mitogen.calls.chain.KEPT_HEADS", 1)
    chain = CallChain(there)
    for _ in range(2):
        assert [chain.call(fn, "7") for fn in (int, str, list)] == [7, "7", ["7"]]


# ---- chains


def test_an_error_goes_through_a_chain(pair, there):
    chain = CallChain(there, pipelined=True)
    receivers = [chain.call_async(fn) for fn in (os.getpid, fail, os.getpid)]
    assert receivers[0].get().unpickle() == os.getpid()
    for receiver in receivers[1:]:
        with pytest.raises(ValueError):
            receiver.get().unpickle()
    chain.reset()
    assert chain.call(add, 1) == 1
    assert not pair[1].router.econtext.dispatcher.errors


def test_chains_are_independent(there):
    with CallChain(there, pipelined=True) as one:
        other, plain = CallChain(there, pipelined=True), CallChain(there)
        assert len({one.chain_id, other.chain_id}) == 2 and plain.chain_id is None
        one.call_no_reply(fail)
        assert other.call(add, 1) == plain.call(add, 1) == there.call(add, 1) == 1
        with pytest.raises(ValueError):
            one.call(add, 1)
    plain.reset()
    assert one.call(add, 1) == 1
    assert "CallChain(Context(1," in repr(one)


# ---- deadlines and cancels


def test_a_timeout_cancels_the_call(pair, there):
    master, one = pair
    one.serving = False
    cancels = one.inbox(core.CANCEL, overwrite=True)
    with pytest.raises(core.TimeoutError) as info:
        CallChain(there, timeout=7).call(add, 1)
    assert master.net.time == 1007
    assert str(info.value) == (
        HERE + ".add in Context(1, None): no result within 7 seconds; the call was cancelled"
    )
    master.net.pump()
    (call,) = one.router.econtext.dispatcher.queue
    assert core.NUMBER.unpack(cancels[0].data) == (call.reply_to,)
    assert call.reply_to not in master.router.handlers
    # A late answer is dropped.
    one.run_calls()
    master.net.pump()
    assert not master.logs


def test_answer_in_time(there):
    assert CallChain(there, timeout=7).call(add, 1) == 1


def test_kill_ends_a_context_that_does_not_react(pair, there):
    master, one = pair
    one.serving = False
    end = master.down[1]
    with pytest.raises(core.TimeoutError):
        CallChain(there, timeout=1, kill=True).call(add, 1)
    master.net.advance(CANCEL_GRACE - 0.1)
    assert not end.closed
    master.net.advance(0.2)
    assert end.closed and end.process.signals == [signal.SIGKILL]


def test_kill_spares_a_context_that_reacts(pair, there):
    master, one = pair
    one.serving = False
    with pytest.raises(core.TimeoutError):
        CallChain(there, timeout=1, kill=True).call(add, 1)
    one.serving = True
    master.net.advance(CANCEL_GRACE + 1)
    assert not master.down[1].closed and not master.down[1].process.signals


def let_cancel(node):
    """Set up a node as its first call does: with a Canceller and a Diverter."""
    econtext = node.router.econtext
    diverter = first_call.Diverter(econtext)
    diverter.on_cancel = first_call.Canceller(econtext.dispatcher, diverter).on_cancel
    assert not diverter.start(core.Message(handle=core.CALL_FUNCTION))


@pytest.fixture
def canceller(pair):
    """Enable cancellation in the child; restore SIGINT afterwards."""
    before = signal.getsignal(signal.SIGINT)
    let_cancel(pair[1])
    yield
    signal.signal(signal.SIGINT, before)


def test_cancel_of_a_queued_call(pair, there, canceller):
    master, one = pair
    one.serving = False
    receivers = [there.call_async(add, number) for number in range(3)]
    CallChain(there).cancel(receivers[1].handle)
    master.net.pump()
    one.serving = True
    with pytest.raises(CallError, match="the call was cancelled before it began"):
        receivers[1].get().unpickle()
    assert [receivers[n].get().unpickle() for n in (0, 2)] == [0, 2]


RUNNING = []


def cancel_me():
    """Run in the child: deliver the cancel of this call."""
    master, one, chain = RUNNING[0]
    with master.broker.thread():
        chain.cancel(one.router.econtext.dispatcher.current.reply_to)
    master.net.pump()
    raise AssertionError("the call was not interrupted")


def cancel_another():
    master, one, chain = RUNNING[0]
    with master.broker.thread():
        chain.cancel(4711)
    master.net.pump()
    return "not interrupted"


def test_cancel_of_the_running_call(pair, there, canceller):
    RUNNING[:] = [(*pair, CallChain(there))]
    with pytest.raises(CallError, match="KeyboardInterrupt: the call was cancelled"):
        there.call(cancel_me)
    assert there.call(cancel_another) == "not interrupted"
    assert there.call(add, 1) == 1


def import_and_be_cancelled():
    """Run in the child: delay the cancel of this call until its function runs."""
    master, one, chain = RUNNING[0]
    dispatcher = one.router.econtext.dispatcher
    dispatcher.interruptible = False  # as during the import of the module
    with master.broker.thread():
        chain.cancel(dispatcher.current.reply_to)
    master.net.pump()
    dispatcher.interruptible = True
    master.net.advance(1)
    raise AssertionError("the call was not interrupted")


def test_cancel_of_a_call_before_its_function(pair, there, canceller):
    RUNNING[:] = [(*pair, CallChain(there))]
    with pytest.raises(CallError, match="KeyboardInterrupt: the call was cancelled"):
        there.call(import_and_be_cancelled)


def test_cancel_before_the_setup(pair, there):
    master, one = pair
    one.serving = False
    receivers = [there.call_async(add, number) for number in range(2)]
    CallChain(there).cancel(receivers[1].handle)
    master.net.pump()
    before = signal.getsignal(signal.SIGINT)
    try:
        queue = one.router.econtext.dispatcher.queue
        assert [msg.handle for msg in queue] == [core.CALL_FUNCTION] * 2 + [core.CANCEL]
        let_cancel(one)
        assert [msg.handle for msg in queue] == [core.CALL_FUNCTION]
        one.serving = True
        assert receivers[0].get().unpickle() == 0
        with pytest.raises(CallError, match="cancelled before it began"):
            receivers[1].get().unpickle()
    finally:
        signal.signal(signal.SIGINT, before)


def test_cancel_of_a_finished_call_is_ignored(pair, there, canceller):
    there.call(add, 1)
    CallChain(there).cancel(2**31)
    pair[0].net.pump()
    os.kill(os.getpid(), signal.SIGINT)  # ignored: no call is running
    assert there.call(add, 1) == 1


def test_only_the_caller_may_cancel(net, canceller=None):
    master, one, two = net.line(3)
    two.dispatcher()
    before = signal.getsignal(signal.SIGINT)
    try:
        let_cancel(two)
        receiver = master.context(two).call_async(add, 1)
        net.pump()
        one.send(2, core.CANCEL, core.NUMBER.pack(receiver.handle))
        net.pump()
        assert len(two.router.econtext.dispatcher.queue) == 1
    finally:
        signal.signal(signal.SIGINT, before)


# ---- CallError


def test_type_text_and_traceback(there):
    with pytest.raises(CallError) as info:
        there.call(fail, "ValueError", "50% off\n", 2)
    error = info.value
    assert isinstance(error, ValueError) and type(error).__name__ == "CallError"
    assert error.type_name == "builtins.ValueError"
    assert error.message == "('50% off\\n', 2)"
    assert "in fail\n    raise getattr(" in error.traceback
    assert error.traceback in str(error)


def test_percent_signs_are_kept(there):
    error = CallError(ValueError("50% off"))
    assert str(error).startswith("builtins.ValueError: 50% off\n")


# Types that CPython does not allow as a second base class.
NOT_TO_BE_INHERITED = ("ExceptionGroup", "MemoryError")


def builtin_exceptions():
    for name, kind in sorted(vars(builtins).items()):
        if isinstance(kind, type) and issubclass(kind, Exception) and name == kind.__name__:
            yield pytest.param(name, kind, id=name)


@pytest.mark.parametrize("name, kind", list(builtin_exceptions()))
def test_built_in_exceptions_keep_their_type(name, kind):
    error = CallError("text")
    error.type_name, error.message = "builtins." + name, "m"
    again = core.decode(core.encode(error))
    plain = ("StopIteration", "StopAsyncIteration", *NOT_TO_BE_INHERITED)
    assert isinstance(again, CallError) and isinstance(again, kind) is (name not in plain)
    assert (str(again), again.type_name, again.message) == ("text", "builtins." + name, "m")
    third = core.decode(core.encode(again))
    assert type(third) is type(again) and str(third) == "text"


@pytest.mark.parametrize(
    "type_name", ["builtins.SystemExit", "builtins.KeyboardInterrupt", "builtins.int", "builtins.x",
                  "os.error", "x.ValueError", "", None]
)  # fmt: skip
def test_other_types_are_plain_call_errors(type_name):
    error = CallError("text")
    error.type_name = type_name
    assert type(core.decode(core.encode(error))) is CallError


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exit_exceptions_are_errors_of_the_call(there, kind):
    with pytest.raises(CallError) as info:
        there.call(fail, kind.__name__)
    assert type(info.value) is CallError and info.value.type_name == "builtins." + kind.__name__
    assert there.call(add, 1) == 1


def test_text_and_arguments():
    assert str(CallError("%s-%s", 1, 2)) == "1-2"
    assert str(CallError("100%")) == "100%"
    assert str(CallError()) == ""


@pytest.mark.parametrize(
    "fields",
    [[], [None, None, None], [1, None, None, "x"], [b"x", None, None, "x"], "abcd", {}, None, 7,
     ["builtins.OSError", 1, 2, 3]],
)  # fmt: skip
def test_a_hostile_call_error_is_a_stream_error_or_harmless(fields):
    data = core.head(0xC0, core.TAG_CALL_ERROR) + core.encode(fields)
    try:
        error = core.decode(data)
    except StreamError:
        return
    assert isinstance(error, CallError) and isinstance(str(error), str)
