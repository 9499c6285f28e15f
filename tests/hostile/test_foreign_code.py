"""Foreign code that raises, whatever the class, ends its own job: threads and other jobs live."""

import logging
import os

import pytest

from mitogen import core, service
from mitogen.programs import grants
from tests.hostile.forged import SOON
from tests.hostile.test_waiting import REPLY, import_something, start_request

KINDS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit]


class Failing(logging.Handler):
    """A log handler of which each record raises."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.count = 0

    def emit(self, record):
        self.count += 1
        raise self.kind("log handler")


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_handler_does_not_stop_modules_and_other_records(master, honest, records, kind):
    honest.call(print, "before")
    records.wait_for("before")
    handler = Failing(kind)
    logging.getLogger("stdout").addHandler(handler)
    try:
        honest.call(print, "raises")
        assert honest.call(import_something) == "mitogen.sftp.packets"
    finally:
        logging.getLogger("stdout").removeHandler(handler)
    honest.call(print, "after")
    records.wait_for("after")
    assert handler.count
    assert master.worker._thread.is_alive()


class Raising(service.Policy):
    def __init__(self):
        self.kind = None

    def is_authorized(self, service, msg):
        if self.kind:
            raise self.kind("policy")
        return True


POLICY = Raising()


class Fragile(service.Service):
    @service.expose(POLICY)
    def guarded(self):
        return 1

    @service.expose(service.AllowAny())
    def fail(self, kind):
        raise {each.__name__: each for each in KINDS}[kind]("method")


class FragileInTurn(Fragile):
    invoker_class = service.SerializedInvoker


class FragileOnce(Fragile):
    invoker_class = service.DeduplicatingInvoker


def ask(name, method, **kwargs):
    return service.call(name, method, **kwargs)


@pytest.mark.parametrize("cls", [Fragile, FragileInTurn, FragileOnce])
@pytest.mark.parametrize("kind", KINDS)
def test_services_and_policies_do_not_end_their_pool(master, honest, cls, kind):
    pool = service.Pool(master, [cls(master)], size=1)
    try:
        for _ in range(3):
            with pytest.raises(core.CallError, match="method"):
                honest.call(ask, cls.name(), "fail", kind=kind.__name__)
            POLICY.kind = kind
            with pytest.raises(core.CallError, match="policy"):
                honest.call(ask, cls.name(), "guarded")
            POLICY.kind = None
            assert honest.call(ask, cls.name(), "guarded") == 1
    finally:
        POLICY.kind = None
        pool.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_of_grants_ends_its_own_request(master, honest, forged, kind):
    def policy(source, target, spec):
        raise kind("policy")

    grants.set_policy(master, policy)
    for _ in range(2 * grants.MAX_AT_ONCE):
        forged.send(grants.START_PROGRAM, start_request(forged), reply_to=REPLY)
        answer = forged.receive(lambda frame: frame.handle == REPLY, SOON)
        assert "policy" in core.decode(answer.data).message
    assert honest.call(os.getpid)
