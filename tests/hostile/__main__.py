"""`python -m tests.hostile [SECONDS]` prints what each attack costs the master and an honest child.

Each attack runs in a process of its own. The columns: the growth of the master's peak memory, the
longest that a call of the honest child took, the number of its calls, and the time that the end of
the master took, which gives a child that does not end by itself 5 seconds. The figures depend on
the machine and on what else runs on it; tests assert counts.
"""

import os
import select
import subprocess
import sys
import tempfile
import threading
import time

from mitogen import core, master, service
from mitogen.importing.resources import GET_RESOURCE
from mitogen.programs import grants
from tests.hostile.forged import Forged

REPLY = 2**31 + 9
#: Growth of the master in bytes, wait of the honest child and end in seconds: what is aimed at.
AIMS = 32 << 20, 0.1, master.Broker.shutdown_timeout + 2


class Large(service.Service):
    """A service with a large answer."""

    @service.expose(service.AllowAny())
    def large(self):
        return bytes(1 << 20)


def log(forged, name, level=20, text="x"):
    return forged.frame(core.FORWARD_LOG, core.encode([name, level, text, None, 0, None]))


def modules(forged, names):
    frames = (forged.frame(core.GET_MODULE, name.encode(), flags=core.RAW) for name in names)
    return b"".join(frames)


def files(forged):
    request = core.encode(["hostile_pkg", "data"])
    return forged.frame(GET_RESOURCE, request, reply_to=REPLY) * 100


def calls(forged):
    request = core.encode((Large.name(), "large", core.Kwargs({})))
    return forged.frame(core.CALL_SERVICE, request, reply_to=REPLY) * 100


def starts(forged):
    spec = {"kind": "argv", "args": ["true"], "window": 1000}
    data = core.encode([0, spec, [REPLY] * 4])
    return forged.frame(grants.START_PROGRAM, data, reply_to=REPLY) * 100


def distinct(function, count=20000):
    return lambda forged: b"".join(function(forged, n) for n in range(count))


#: Name to (function that returns the bytes sent again and again, whether the child reads).
ATTACKS = {
    "loggers of 60,000 dots": (lambda f: log(f, "a." * 60000), True),
    "distinct loggers": (distinct(lambda f, n: log(f, "name%d.x" % n)), True),
    "distinct levels": (distinct(lambda f, n: log(f, "x", n)), True),
    "long records": (lambda f: log(f, "x", 20, "\x1b" * 120000), True),
    "one module again and again": (lambda f: modules(f, ["mitogen.ssh"] * 1000), True),
    "modules that do not exist": (
        distinct(lambda f, n: modules(f, ["no_such_module_%d" % n])),
        True,
    ),
    "modules, unread": (lambda f: modules(f, ["mitogen.ssh", "mitogen.sudo"] * 500), False),
    "data files": (files, True),
    "data files, unread": (files, False),
    "a service": (calls, True),
    "a service, unread": (calls, False),
    "programs without a grant": (starts, True),
    "programs with a policy, unread": (starts, False),
}


def memory(name):
    with open("/proc/self/status") as fp:
        return next(int(line.split()[1]) << 10 for line in fp if line.startswith(name + ":"))


def pump(forged, data, reads, seconds):
    """Send `data` again and again."""
    end = time.monotonic() + seconds
    view = memoryview(data)
    while time.monotonic() < end:
        readable, writable, _ = select.select([forged.sock] * reads, [forged.sock], [], 0.1)
        if readable and not forged.sock.recv(1 << 20):
            return
        if writable:
            view = view[forged.write_some(view) :] or memoryview(data)


def attack(name, seconds):
    make, reads = ATTACKS[name]
    waits = [0.0]
    over = threading.Event()

    def call(honest):
        while not over.is_set():
            started = time.monotonic()
            honest.call(int)
            waits.append(time.monotonic() - started)

    with tempfile.TemporaryDirectory() as directory, master.Router() as router:
        os.mkdir(directory + "/hostile_pkg")
        open(directory + "/hostile_pkg/__init__.py", "w").close()
        with open(directory + "/hostile_pkg/data", "wb") as fp:
            fp.write(bytes(3 << 20))
        sys.path.append(directory)
        pool = service.Pool(router, [Large(router)], size=16)
        if "policy" in name:
            grants.set_policy(router, lambda *_: time.sleep(1))
        honest = router.local()
        with Forged(router) as forged:
            data = make(forged)
            honest.call(int)
            before = memory("VmRSS")
            caller = threading.Thread(target=call, args=(honest,))
            caller.start()
            pump(forged, data, reads, seconds)
            over.set()
            caller.join()
            grown = memory("VmHWM") - before
            started = time.monotonic()
            pool.stop()
            router.broker.shutdown()
            router.broker.join()
            ended = time.monotonic() - started
    marks = "".join(" *"[value > aim] for value, aim in zip((grown, max(waits), ended), AIMS))
    figures = grown / 1048576, 1000 * max(waits), len(waits) - 1, ended, marks
    print("%-32s %7.1f MB %7.0f ms %7d calls %5.1f s %s" % (name, *figures), flush=True)


def main():
    if len(sys.argv) > 2:
        return attack(sys.argv[2], float(sys.argv[1]))
    seconds = sys.argv[1] if len(sys.argv) > 1 else "5"
    for name in ATTACKS:
        command = [sys.executable, "-m", "tests.hostile", seconds, name]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout or "%s: %s" % (name, done.stderr[-300:]), end="", flush=True)
    print("* more than %d MB, %.1f s and %.1f s, in this order" % (AIMS[0] >> 20, *AIMS[1:]))


if __name__ == "__main__":
    main()
