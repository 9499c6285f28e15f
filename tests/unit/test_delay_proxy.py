"""tests/delay_proxy.py: the queue, the counting, and the loop over socket pairs."""

import json
import os
import socket
import threading
import time

import pytest

from tests.delay_proxy import Delay, Flights, relay

UP, DOWN = Flights.UP, Flights.DOWN


class TestDelay:
    def test_gives_out_in_order_after_the_delay(self):
        line = Delay(0.025)
        line.put(1.0, b"one")
        line.put(1.01, b"two")
        assert line.due(1.0249) == b""
        assert line.next_due() == pytest.approx(1.025)
        assert line.due(1.025) == b"one"
        line.written(3)
        assert line.due(1.03) == b""
        assert line.due(1.036) == b"two"

    def test_partial_write_keeps_the_rest_and_its_time(self):
        line = Delay(1.0)
        line.put(0.0, b"abcdef")
        line.written(2)
        assert line.due(1.0) == b"cdef"
        assert line.size == 4

    def test_is_false_when_empty(self):
        line = Delay(1.0)
        assert not line
        assert line.next_due() is None
        line.put(0.0, b"x")
        assert line
        line.written(1)
        assert not line
        assert line.size == 0


class TestFlights:
    def exchange(self, flights, now, rtt):
        """Pass one request and its answer through; return the time when the answer is there."""
        flights.read(UP, now, 10)
        flights.delivered(UP)
        flights.read(DOWN, now + rtt / 2, 10)
        flights.delivered(DOWN)
        return now + rtt

    def test_each_request_after_an_answer_is_a_flight(self):
        flights, now = Flights(0.05), 0.0
        for _ in range(3):
            now = self.exchange(flights, now, 0.05)
        assert flights.as_dict() == {
            "up_flights": 3,
            "down_flights": 3,
            "up_bytes": 30,
            "down_bytes": 30,
        }

    def test_many_pieces_are_one_flight(self):
        flights = Flights(0.05)
        for step in range(100):
            flights.read(UP, step * 0.001, 1000)
            flights.delivered(UP)
        assert flights.flights == [1, 0]

    def test_quiet_without_an_answer_is_the_same_flight(self):
        flights = Flights(0.05)
        flights.read(UP, 0.0, 1)
        flights.read(UP, 5.0, 1)
        assert flights.flights[UP] == 1

    def test_acknowledgements_during_an_upload_begin_no_flight(self):
        flights = Flights(0.05)
        for step in range(100):
            flights.read(UP, step * 0.01, 1000)
            flights.delivered(UP)
            flights.read(DOWN, step * 0.01 + 0.001, 1)
            flights.delivered(DOWN)
        assert flights.flights == [1, 1]


class Pair:
    """A thread running `relay()` between two socket pairs; `near` and `far` are the outer ends."""

    def __init__(self, delay, count=None):
        self.near, near_inner = socket.socketpair()
        self.far, far_inner = socket.socketpair()
        self.inner = [near_inner, far_inner]
        for sock in self.inner:
            sock.setblocking(False)
        for sock in (self.near, self.far):
            sock.settimeout(10)
        fds = near_inner.fileno(), far_inner.fileno()
        self.thread = threading.Thread(target=self.work, args=(fds, delay, count))

    def work(self, fds, delay, count):
        self.flights = relay(fds, fds[::-1], delay, count)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.near.close()
        self.thread.join(10)
        for sock in [self.far, *self.inner]:
            sock.close()
        assert not self.thread.is_alive()


def receive(sock, size):
    """Return *size* bytes read from *sock*."""
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(1 << 20)
        assert piece, "ended after {} of {} bytes".format(len(data), size)
        data += piece
    return bytes(data)


def test_round_trip_takes_the_delay_and_is_counted(tmp_path):
    count = tmp_path / "count"
    with Pair(0.04, str(count)) as pair:
        for _ in range(2):
            start = time.monotonic()
            pair.near.sendall(b"ping")
            assert receive(pair.far, 4) == b"ping"
            assert time.monotonic() - start >= 0.02
            pair.far.sendall(b"pong")
            assert receive(pair.near, 4) == b"pong"
            assert time.monotonic() - start >= 0.04
    assert json.loads(count.read_text()) == pair.flights.as_dict()
    assert pair.flights.as_dict() == {
        "up_flights": 2,
        "down_flights": 2,
        "up_bytes": 8,
        "down_bytes": 8,
    }


def test_does_not_limit_the_bandwidth():
    # 8 MB at 20 ms one way: with only one buffer (208 KiB) in transit at a time, 0.8 s.
    data = os.urandom(8 * 1000 * 1000)
    with Pair(0.04) as pair:
        sender = threading.Thread(target=pair.near.sendall, args=(data,))
        start = time.monotonic()
        sender.start()
        assert receive(pair.far, len(data)) == data
        took = time.monotonic() - start
        sender.join()
    assert took < 0.6


def test_end_of_one_side_ends_the_proxy_after_draining():
    with Pair(0.02) as pair:
        pair.near.sendall(b"last words")
        pair.near.shutdown(socket.SHUT_WR)
        assert receive(pair.far, 10) == b"last words"
        pair.thread.join(10)
        assert not pair.thread.is_alive()


def test_a_reset_of_one_side_ends_the_proxy():
    with Pair(0.0) as pair:
        pair.far.close()
        pair.near.sendall(b"x")
        pair.thread.join(10)
        assert not pair.thread.is_alive()
