"""An ssh ProxyCommand that adds latency without limiting bandwidth, and counts flights.

    ssh -o 'ProxyCommand=python3 tests/delay_proxy.py %h %p 50 --count /tmp/n' host

It connects to HOST PORT and copies stdin to the socket and the socket to stdout, each byte DELAY_MS
/ 2 milliseconds after it was read. Any amount of data may be in transit, so only latency is added
and bandwidth is not limited.

A *flight* is the data one side sends without waiting for the other: bytes begin a new flight if
their side has been quiet for a round trip (DELAY_MS) and has received something since its last
bytes. So the number of upward flights equals the number of round trips, however the data was split
into packets.

Rules: `Delay` and `Flights` have no clock and no descriptor; the time (seconds) is an argument. One
thread, which blocks only in select(). Standard library only, Python >= 3.9. The proxy ends when
either side ends, once the data already read has been written.
"""

import argparse
import collections
import json
import os
import select
import socket
import sys
import time
from typing import Optional

__all__ = ["Delay", "Flights", "relay"]

READ_SIZE = 256 * 1024  # bytes per read; a pipe gives 64 KiB at most, a socket more
# Bytes in transit per direction at which reading pauses: 500 MB/s for 100 ms. The limit only keeps
# a stalled reader from filling our memory.
HIGH_WATER = 50 * 1000 * 1000
# The far sides may measure a round trip shorter than DELAY_MS, by the rounding of our clock.
QUIET_SHARE = 0.95


class Delay:
    """A queue of bytes; each piece is due a fixed time after it was put in.

    :param seconds: that time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.size = 0
        self._queue: collections.deque[tuple[float, bytes]] = collections.deque()

    def put(self, now: float, data: bytes) -> None:
        """Add *data*, read at *now*."""
        self._queue.append((now + self.seconds, data))
        self.size += len(data)

    def due(self, now: float) -> bytes:
        """Return the first piece if it is due, else b''. It stays in the queue until
        `written()`.
        """
        return self._queue[0][1] if self._queue and self._queue[0][0] <= now else b""

    def written(self, count: int) -> None:
        """Remove the first *count* bytes of the first piece."""
        when, data = self._queue.popleft()
        self.size -= count
        if count < len(data):
            self._queue.appendleft((when, data[count:]))

    def next_due(self) -> Optional[float]:
        """Return the time when the first piece is due, None if the queue is empty."""
        return self._queue[0][0] if self._queue else None

    def __bool__(self) -> bool:
        return bool(self._queue)


class Flights:
    """A counter of flights in both directions, `UP` (from stdin) and `DOWN` (to stdout).

    :param round_trip: seconds of quiet after which an answer begins a new flight.
    """

    UP, DOWN = 0, 1

    def __init__(self, round_trip: float) -> None:
        self.quiet = round_trip * QUIET_SHARE
        self.flights = [0, 0]
        self.bytes = [0, 0]
        self._last_read: list[Optional[float]] = [None, None]
        self._given = [True, True]  # whether this side has received anything since its last bytes

    def read(self, side: int, now: float, size: int) -> None:
        """Record that *side* sent *size* bytes."""
        last = self._last_read[side]
        if last is None or (self._given[side] and now - last >= self.quiet):
            self.flights[side] += 1
        self._last_read[side] = now
        self._given[side] = False
        self.bytes[side] += size

    def delivered(self, side: int) -> None:
        """Record that bytes sent by *side* have reached the other side."""
        self._given[1 - side] = True

    def as_dict(self) -> dict[str, int]:
        """Return the counts as a dict, with the names used in the count file."""
        return {
            "up_flights": self.flights[self.UP],
            "down_flights": self.flights[self.DOWN],
            "up_bytes": self.bytes[self.UP],
            "down_bytes": self.bytes[self.DOWN],
        }


class CountFile:
    """A small JSON file, replaced as a whole when the counts have changed and the line is quiet."""

    def __init__(self, path: Optional[str]) -> None:
        self.path = path
        self._written: dict[str, int] = {}

    def update(self, counts: dict[str, int]) -> None:
        """Write *counts* unless the file already has them."""
        if self.path is None or counts == self._written:
            return
        draft = "{}.{}".format(self.path, os.getpid())
        with open(draft, "w") as fp:
            json.dump(counts, fp)
        os.rename(draft, self.path)
        self._written = counts


def read_some(fd: int) -> Optional[bytes]:
    """Read from *fd*; return b'' at its end, None if no data is available now."""
    try:
        return os.read(fd, READ_SIZE)
    except BlockingIOError:
        return None
    except OSError:  # a reset counts as the end
        return b""


def write_some(fd: int, line: Delay, now: float) -> int:
    """Write the due pieces; return the number of bytes, -1 if the reader is gone."""
    total = 0
    while True:
        data = line.due(now)
        if not data:
            return total
        try:
            count = os.write(fd, data)
        except BlockingIOError:
            return total
        except OSError:
            return -1
        line.written(count)
        total += count


def wait(
    sources: dict[int, int], sinks: list[int], lines: list[Delay], now: float
) -> tuple[list[int], list[int]]:
    """Wait until a descriptor is ready or a piece is due; return both lists of descriptors."""
    readable = [fd for side, fd in sources.items() if lines[side].size < HIGH_WATER]
    writable = [sinks[side] for side, line in enumerate(lines) if line.due(now)]
    times = [line.next_due() for line in lines if not line.due(now)]
    pending = [when for when in times if when is not None]
    timeout = max(0.0, min(pending) - now) if pending else None
    ready = select.select(readable, writable, [], timeout)
    return ready[0], ready[1]


def relay(
    up: tuple[int, int], down: tuple[int, int], delay: float, count: Optional[str] = None
) -> Flights:
    """Copy until one side ends and the data already read is written; return the counts.

    :param up: (descriptor to read, descriptor to write) from the near side to the far one.
    :param down: the same in the other direction. All descriptors must be non-blocking.
    :param delay: round trip to add, in seconds.
    :param count: path of the count file.
    """
    lines = [Delay(delay / 2), Delay(delay / 2)]
    sources, sinks = {0: up[0], 1: down[0]}, [up[1], down[1]]
    flights, counts = Flights(delay), CountFile(count)
    ended = False
    while not ended or any(lines):
        now = time.monotonic()
        counts.update(flights.as_dict())
        readable, writable = wait({} if ended else sources, sinks, lines, now)
        now = time.monotonic()
        for side in (Flights.UP, Flights.DOWN):
            if sources[side] in readable:
                data = read_some(sources[side])
                if data:
                    flights.read(side, now, len(data))
                    lines[side].put(now, data)
                ended = ended or data == b""
            if sinks[side] in writable or lines[side].due(now):
                size = write_some(sinks[side], lines[side], now)
                if size < 0:
                    return finish(counts, flights)
                if size:
                    flights.delivered(side)
    return finish(counts, flights)


def finish(counts: CountFile, flights: Flights) -> Flights:
    """Write the counts for the last time."""
    counts.update(flights.as_dict())
    return flights


def main() -> None:
    parser = argparse.ArgumentParser(description="Delay the data between stdio and HOST PORT.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("delay_ms", type=float, help="round trip to add, in milliseconds")
    parser.add_argument("--count", metavar="FILE", help="file to write the counts to, as JSON")
    args = parser.parse_args()
    with socket.create_connection((args.host, args.port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        descriptors = [0, 1, sock.fileno()]
        for fd in descriptors:
            os.set_blocking(fd, False)
        relay((0, sock.fileno()), (sock.fileno(), 1), args.delay_ms / 1000, args.count)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit("delay_proxy: {}".format(error))
