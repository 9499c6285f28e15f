"""A master that sends values to a reader that does not read, and measures memory.

argv: "up", "down" or "across". Prints JSON: the growth of each process in bytes until the sender
stalled, the growth while everything was read afterwards, and whether the data arrived unchanged.
"""

import json
import logging
import os
import queue
import re
import sys
import threading
import zlib

import mitogen.core
import mitogen.master
from tests.integration.far import work

PIECE = 1 << 20  # bytes
PIECES = 200
WARM = 12  # pieces sent and read first: more than a window, so that buffers are allocated

mitogen.core.CREDIT_WARNING = 0.3
STALLED = "nothing was read"


class Stalls(logging.Handler):
    """A log handler that queues the warnings of senders waiting for credit."""

    def __init__(self):
        super().__init__()
        self.queue = queue.Queue()

    def emit(self, record):
        if STALLED in record.getMessage():
            self.queue.put(record)


def status(pid, field):
    """Return a size from /proc/PID/status, in bytes."""
    with open("/proc/{}/status".format(pid)) as fp:
        return int(re.search(field + r":\s+(\d+) kB", fp.read()).group(1)) * 1024


def reset_peak(pid):
    with open("/proc/{}/clear_refs".format(pid), "w") as fp:
        fp.write("5")
    return status(pid, "VmRSS")


def expected(count):
    """Return the checksum of *count* pieces."""
    crc = 0
    for number in range(count):
        crc = zlib.crc32(work.piece(number, PIECE), crc)
    return [count, crc]


def transfer(router, source, target, count, before_reading):
    """Push *count* pieces from *source* to *target* (None: this process); return the data read.

    `before_reading()` is called when all pieces are on their way and none has been read.
    """
    here = mitogen.core.Receiver(router)
    if target is None:
        sender, reading = here.to_sender(), None
    else:
        go = mitogen.core.Receiver(router)
        reading = target.call_async(work.read_later, here.to_sender(), go.to_sender())
        sender = here.get().unpickle()
        start = go.get().unpickle()
    if source is None:
        pushing = threading.Thread(target=work.push, args=(sender, count, PIECE))
        pushing.start()
    else:
        pushing = source.call_async(work.push, sender, count, PIECE)
    before_reading()
    if reading is None:
        result = work.read_all(here)
    else:
        start.send(None)
        result = reading.get().unpickle()
    pushing.join() if source is None else pushing.get().unpickle()
    return list(result)


def main(router, way):
    stalls = Stalls()
    logging.getLogger().addHandler(stalls)
    hop = router.local()
    far, other = router.local(via=hop), router.local()
    source, target = {"up": (far, None), "down": (None, far), "across": (far, other)}[way]
    contexts = {"far": far, "hop": hop, "other": other}
    pids = {name: context.call(work.identity)[0] for name, context in contexts.items()}
    pids["master"] = os.getpid()
    far.call(work.warn_early, mitogen.core.CREDIT_WARNING)
    right = transfer(router, source, target, WARM, stalls.queue.get) == expected(WARM)
    base = {name: reset_peak(pid) for name, pid in pids.items()}
    grown = {}

    def look():
        stalls.queue.get()
        grown.update({name: status(pids[name], "VmHWM") - base[name] for name in pids})

    right = transfer(router, source, target, PIECES, look) == expected(PIECES) and right
    later = {name: status(pid, "VmHWM") - base[name] for name, pid in pids.items()}
    return {"stalled": grown, "read": later, "right": right}


if __name__ == "__main__":
    with mitogen.master.Router() as router:
        print(json.dumps(main(router, sys.argv[1])))
