"""Flow control: a stalled reader costs only a window; a large value delays no other message."""

import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

import mitogen.core
from tests.checkout import ROOT
from tests.integration.conftest import SOON
from tests.integration.far import work

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20
LARGE = 100 * 1000 * 1000


@pytest.mark.slow
@pytest.mark.parametrize("way", ["up", "down", "across"])
def test_a_stalled_reader_of_200_mb_costs_a_window(way):
    """Memory is measured in separate processes: master, a relay and both ends."""
    done = subprocess.run(
        [sys.executable, str(HERE / "drivers" / "flow.py"), way],
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["right"]
    # While stalled: about a window. While reading: also the values being read.
    for when, limit in (("stalled", 8 * MIB), ("read", 24 * MIB)):
        assert set(result[when]) == {"master", "hop", "far", "other"}
        too_much = {who: n for who, n in result[when].items() if n > limit}
        assert not too_much, (when, too_much)


def test_without_a_window_everything_is_received(own_router):
    context = own_router.local()
    receiver = mitogen.core.Receiver(own_router, window=None)
    context.call(work.push, receiver.to_sender(), 20, MIB)
    assert receiver.size() >= 20
    assert work.read_all(receiver)[0] == 20


class TestNoCredit:
    """A sender whose reader stalls logs a warning, then raises an error that names both ends."""

    def test_the_master_times_out(self, own_router, monkeypatch, records):
        context = own_router.local()
        ready, go = mitogen.core.Receiver(own_router), mitogen.core.Receiver(own_router)
        reading = context.call_async(work.read_later, ready.to_sender(), go.to_sender())
        sender = ready.get(timeout=SOON).unpickle()
        monkeypatch.setattr(mitogen.core, "CREDIT_WARNING", 0.05)
        monkeypatch.setattr(mitogen.core, "CREDIT_TIMEOUT", 0.2)
        with pytest.raises(mitogen.core.TimeoutError, match=r"Receiver\(window=None\)") as caught:
            work.push(sender, 20, MIB)
        ends = ("context 0 ", "context {} ".format(context.context_id), str(sender.dst_handle))
        assert all(end in str(caught.value) for end in ends), caught.value
        assert records.wait_for("nothing was read").levelname == "WARNING"
        # The flow is unchanged by the message that failed.
        go.get(timeout=SOON).unpickle().send(None)
        sender.close()
        assert 1 <= reading.get(timeout=SOON).unpickle()[0] < 20

    def test_a_child_times_out(self, own_router, records):
        context = own_router.local()
        receiver = mitogen.core.Receiver(own_router)
        context.call(work.warn_early, 0.05, 0.2)
        with pytest.raises(mitogen.core.CallError, match=r"Receiver\(window=None\)") as caught:
            context.call(work.push, receiver.to_sender(), 20, MIB)
        ends = ("context 0 ", "context {} ".format(context.context_id), str(receiver.handle))
        assert all(end in str(caught.value) for end in ends), caught.value
        assert "TimeoutError" in caught.value.type_name
        assert records.wait_for("nothing was read").levelname == "WARNING"

    def test_a_closed_receiver_ends_the_wait(self, own_router):
        context = own_router.local()
        receiver = mitogen.core.Receiver(own_router)
        arrived = threading.Event()
        receiver.notify = lambda _: arrived.set()
        context.call(work.warn_early, 0.05)
        call = context.call_async(work.push, receiver.to_sender(), 20, MIB)
        assert arrived.wait(SOON)
        receiver.close()
        # It raises an error if it was waiting at that moment; otherwise its messages are dropped.
        end = call.get(timeout=SOON).unpickle(throw=False)
        assert end is None or "ChannelError" in str(end)
        assert context.call(work.add, 1)[0] == 3


class TestLargeValues:
    """Calls to other contexts on a link are answered while a large value is in transit on it."""

    @pytest.fixture
    def pair(self, own_router):
        """Return two contexts behind one link."""
        hop = own_router.local()
        large, small = own_router.local(via=hop), own_router.local(via=hop)
        for context in (large, small):
            context.call(work.checksum, b"")
            context.call(work.echo, bytes(MIB))
        return large, small

    def test_a_large_result_does_not_delay_other_calls(self, pair):
        large, small = pair
        answer = large.call_async(work.zeros, LARGE)
        for number in range(20):
            assert small.call(work.echo, number) == number
        assert answer.empty()
        assert len(answer.get(timeout=60).unpickle()) == LARGE

    def test_a_large_argument_does_not_delay_other_calls(self, pair):
        large, small = pair
        data = bytes(LARGE)
        begun, results = threading.Event(), []

        def call():
            begun.set()
            results.append(large.call(work.checksum, data))

        thread = threading.Thread(target=call)
        thread.start()
        begun.wait(SOON)
        for number in range(20):
            assert small.call(work.echo, number) == number
        assert results == []
        thread.join(60)
        assert results == [work.checksum(data)]

    def test_a_value_above_max_message_size_is_an_error_of_the_call(self, own_router):
        own_router.max_message_size = MIB
        context = own_router.local()
        with pytest.raises(mitogen.core.Error, match="too large"):
            context.call(work.checksum, bytes(2 * MIB))
        with pytest.raises(mitogen.core.Error, match="too large"):
            context.call(work.zeros, 2 * MIB)
        assert context.call(work.add, 1)[0] == 3
