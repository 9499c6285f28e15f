"""base.py: policies, argument checks, and one answer for each caller that waits."""

import functools
import threading
from types import SimpleNamespace

import pytest

from mitogen import core
from mitogen.services import base
from mitogen.services.base import AllowAny, AllowParents, Service, arg_spec, expose, no_reply

NODE = core.Node(5, [3, 0])


class Call(core.Message):
    """A message that records its answer."""

    def __init__(self, auth_id=0, reply_to=1):
        super().__init__(src_id=auth_id, auth_id=auth_id, reply_to=reply_to)
        self.router = SimpleNamespace(node=NODE)
        self.replies = []

    def reply(self, msg, router=None, **kwargs):
        if self.reply_to:
            core.encode(msg)
            self.replies.append(msg)


def wrapped(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        return func(*args, **kwargs)

    return wrapper


class Refusing(base.Policy):
    def is_authorized(self, service, msg):
        return False


class Sample(Service):
    """A service with one method of each kind."""

    not_a_method = 5

    def hidden(self):
        raise AssertionError("not exposed")

    @expose(AllowAny())
    def any(self, a=1):
        return a

    @expose(policy=AllowParents())
    def parents(self):
        return "parents"

    @expose(Refusing())
    @expose(AllowAny())
    def both(self):
        raise AssertionError("one of its policies refuses")

    @expose(AllowAny())
    @arg_spec({"name": (str, bytes), "count": int})
    def checked(self, name, count=3):
        return name, count

    @expose(AllowAny())
    def with_msg(self, msg):
        return msg.src_id

    @expose(AllowAny())
    @wrapped
    def wrapped(self, a, msg=None):
        return a, msg.src_id

    @expose(AllowAny())
    def local_msg(self):
        msg = "a variable of its own"
        return msg

    @expose(AllowAny())
    @no_reply()
    def quiet(self, fail=False):
        if fail:
            raise ValueError("quiet")
        return "not sent"

    @expose(AllowAny())
    def later(self, msg):
        msg.reply("later")
        return Service.NO_REPLY

    @expose(AllowAny())
    def fail(self, kind="ValueError"):
        raise {"ValueError": ValueError, "SystemExit": SystemExit}[kind]("it failed")

    @expose(AllowAny())
    def fail_further_on(self):
        error = core.CallError("from further away")
        error.type_name = "builtins.KeyError"
        raise error

    @expose(AllowAny())
    def unsendable(self):
        return object()

    @property
    def trap(self):
        raise AssertionError("a property is not called")


@pytest.fixture
def logs():
    return []


@pytest.fixture
def service(logs):
    router = SimpleNamespace(node=NODE, log=lambda level, fmt, *args: logs.append(fmt % args))
    return Sample(router)


@pytest.fixture
def invoke(service):
    invoker = base.Invoker(service)

    def invoke(name, kwargs=None, **message):
        call = Call(**message)
        invoker.invoke(name, kwargs or {}, call)
        return call.replies

    return invoke


def test_names(service):
    assert Sample.name() == __name__ + ".Sample"
    assert repr(service) == "Sample()"
    assert repr(base.Invoker(service)) == "Invoker(Sample())"
    assert service.select.size() == 0
    service.on_message(None)
    service.on_shutdown()
    with pytest.raises(NotImplementedError):
        base.Policy().is_authorized(service, Call())


def test_results(invoke):
    assert invoke("any") == [1]
    assert invoke("any", {"a": [1, 2]}) == [[1, 2]]
    assert invoke("with_msg", auth_id=7) == [7]
    assert invoke("wrapped", {"a": 2}, auth_id=7) == [(2, 7)]
    assert invoke("local_msg") == ["a variable of its own"]
    assert invoke("later") == ["later"]
    # A caller that waits for a method without an answer gets it when the method returns.
    assert invoke("quiet") == [None]
    assert invoke("any", reply_to=0) == []


@pytest.mark.parametrize("auth_id", [0, 3, 5])
def test_parents_are_ancestors_and_the_context_itself(invoke, auth_id):
    assert invoke("parents", auth_id=auth_id) == ["parents"]


def test_other_contexts_are_refused(invoke):
    for auth_id in (7, 4, 1):
        with pytest.raises(base.Error) as caught:
            invoke("parents", auth_id=auth_id)
        assert str(caught.value) == (
            "Caller is not authorized to invoke 'parents' of service "
            "'tests.unit.services.test_base.Sample': context %d is refused by AllowParents"
            % auth_id
        )
    with pytest.raises(base.Error, match="refused by Refusing"):
        invoke("both")


@pytest.mark.parametrize(
    "name",
    ["hidden", "nothing", "__init__", "__class__", "name", "select", "trap", "not_a_method", ""],
)
def test_methods_without_a_policy_cannot_be_called(invoke, name):
    with pytest.raises(base.Error, match="Sample' has no exposed method %r" % name):
        invoke(name)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, "argument 'name' is missing"),
        ({"name": "x"}, "argument 'count' is missing"),
        ({"name": 1, "count": 1}, "argument 'name' must be str or bytes, not int"),
        ({"name": "x", "count": "1"}, "argument 'count' must be int, not str"),
    ],
)
def test_arguments_are_checked(invoke, kwargs, text):
    with pytest.raises(core.CallError, match="checked of service '.*Sample': " + text):
        invoke("checked", kwargs)
    with pytest.raises(core.CallError, match="^" + text):
        base.validate_arg_spec({"name": (str, bytes), "count": int}, kwargs)


def test_valid_arguments(invoke):
    assert invoke("checked", {"name": b"x", "count": 1}) == [(b"x", 1)]
    assert base.validate_arg_spec({}, {"a": 1}) is None


def test_unknown_arguments(invoke):
    (error,) = invoke("any", {"b": 1})
    assert error.type_name == "builtins.TypeError" and "'b'" in error.message


def test_errors_are_sent_as_answers(invoke, logs):
    (error,) = invoke("fail")
    assert (error.type_name, error.message) == ("builtins.ValueError", "it failed")
    assert "in fail" in error.traceback
    (error,) = invoke("fail", {"kind": "SystemExit"})
    assert error.type_name == "builtins.SystemExit"
    (error,) = invoke("fail_further_on")
    assert error.type_name == "builtins.KeyError"
    (error,) = invoke("unsendable")
    assert "EncodeError" in error.type_name
    assert logs == []


def test_errors_without_a_waiting_caller_are_logged(invoke, logs):
    assert invoke("fail", reply_to=0, auth_id=7) == []
    assert "called by context 7" in logs[0] and "it failed" in logs[0]
    invoke("quiet", {"fail": True})
    assert "ValueError: quiet" in logs[1]


# ---- serialized


class Ordered(Service):
    invoker_class = base.SerializedInvoker

    def __init__(self, router):
        super().__init__(router)
        self.began = []
        self.running = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()

    @expose(AllowAny())
    def step(self, number):
        self.running += 1
        self.began.append((number, self.running))
        self.entered.release()
        assert self.go.wait(20)
        self.running -= 1
        if number == 2:
            raise ValueError(number)
        return number


def test_serialized_calls_run_in_order(service):
    ordered = Ordered(service.router)
    invoker = ordered.invoker_class(service=ordered)
    calls = [Call() for _ in range(5)]

    def invoke(number):
        invoker.invoke("step", {"number": number}, calls[number])

    first = threading.Thread(target=invoke, args=(0,))
    first.start()
    assert ordered.entered.acquire(timeout=20)
    for number in range(1, 5):
        # Returns at once: the first thread runs this call as well.
        invoke(number)
    ordered.go.set()
    first.join(20)
    assert ordered.began == [(number, 1) for number in range(5)]
    assert [c.replies[0] for n, c in enumerate(calls) if n != 2] == [0, 1, 3, 4]
    assert calls[2].replies[0].type_name == "builtins.ValueError"
    invoke(0)
    assert calls[0].replies == [0, 0]
    with pytest.raises(base.Error):
        invoker.invoke("nothing", {}, Call())


def test_serialized_calls_continue_when_an_answer_cannot_be_sent(service, logs):
    class Broken(Call):
        def reply(self, msg, router=None, **kwargs):
            raise core.ChannelError("gone")

    ordered = Ordered(service.router)
    ordered.go.set()
    invoker = ordered.invoker_class(service=ordered)
    invoker.invoke("step", {"number": 0}, Broken())
    call = Call()
    invoker.invoke("step", {"number": 1}, call)
    assert call.replies == [1] and "gone" in logs[0]


# ---- deduplicated


class Once(Service):
    invoker_class = base.DeduplicatingInvoker

    def __init__(self, router):
        super().__init__(router)
        self.count = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    @expose(AllowAny())
    def compute(self, a=None, fail=False):
        self.count += 1
        self.entered.release()
        assert self.go.wait(20)
        if fail:
            raise ValueError("attempt %d" % self.count)
        return self.count

    @expose(AllowAny())
    def never(self):
        return Service.NO_REPLY

    @expose(AllowAny())
    def unsendable(self):
        return object()


@pytest.fixture
def once(service):
    service = Once(service.router)
    invoker = service.invoker_class(service=service)

    def ask(name, **kwargs):
        call = Call()
        invoker.invoke(name, kwargs, call)
        return call.replies[0]

    service.ask, service.invoker = ask, invoker
    return service


def test_deduplicated_later_calls(once):
    assert [once.ask("compute") for _ in range(3)] == [1, 1, 1]
    assert once.ask("compute", a=[1, {"x": {2}}]) == once.ask("compute", a=[1, {"x": {2}}]) == 2
    assert once.ask("compute", a=(1, {"x": {2}})) == 3
    # 1, 1.0 and True are equal, but their answers may differ.
    assert len({once.ask("compute", a=value) for value in (1, 1.0, True)}) == 3


@pytest.mark.parametrize("fail", [False, True])
def test_deduplicated_concurrent_calls(once, fail):
    once.go.clear()
    calls = [Call() for _ in range(4)]
    kwargs = {"fail": fail}
    first = threading.Thread(target=once.invoker.invoke, args=("compute", kwargs, calls[0]))
    first.start()
    assert once.entered.acquire(timeout=20)
    for call in calls[1:]:
        once.invoker.invoke("compute", {"fail": fail}, call)
        assert call.replies == []
    once.go.set()
    first.join(20)
    assert once.count == 1
    if fail:
        assert {call.replies[0].message for call in calls} == {"attempt 1"}
        assert once.ask("compute", fail=True).message == "attempt 2"
    else:
        assert [call.replies for call in calls] == [[1]] * 4


def test_deduplicated_errors(once):
    assert "must return its result" in once.ask("never").message
    assert "EncodeError" in once.ask("unsendable").type_name
    with pytest.raises(base.Error):
        once.ask("nothing")


def test_deduplicated_by_a_custom_key(service):
    class Same(base.DeduplicatingInvoker):
        def key_from_request(self, method_name, kwargs):
            return method_name

    once = Once(service.router)
    invoker = Same(service=once)
    for a in (1, 2):
        call = Call()
        invoker.invoke("compute", {"a": a}, call)
        assert call.replies == [1]


def test_kept_answers_are_bounded(once, monkeypatch):
    monkeypatch.setattr(base, "MAX_RESPONSES", 3)
    answers = [once.ask("compute", a=number) for number in range(10)]
    assert answers == list(range(1, 11)) and len(once.invoker._responses) == 3
    assert once.ask("compute", a=9) == 10
