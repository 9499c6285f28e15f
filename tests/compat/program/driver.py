"""A master for one test: runs under the tested Python, connects, prints one line of JSON.

argv: JSON of {"ssh": keyword arguments of ssh() or null, "child": command words of the child's
Python, "last": those of the third context's, "size": bytes of the large values}.
"""

import json
import os
import select
import sys
import time

import luggage
from luggage import weight

import mitogen.core
import mitogen.master


def version():
    """Return this Python's version, "pypy" for all of PyPy's."""
    name = sys.implementation.name
    return "%d.%d" % sys.version_info[:2] if name == "cpython" else name


def who():
    return [version(), os.getpid()]


def check(data, size):
    """Return the argument and *size* bytes."""
    return luggage.total(data), data[:1] * size


def fail(text):
    weight.explode(text)


@mitogen.core.takes_router
def grandchild(python, router):
    """Connect from a context; return the result of its child."""
    context = router.local(python_path=python)
    try:
        return context.call(who)
    finally:
        context.shutdown(wait=True)


def large(context, size):
    """Return whether *size* bytes make the round trip unchanged."""
    data = b"\xa5" * size
    (count, crc), back = context.call(check, data, size)
    return (count, crc) == tuple(luggage.total(data)) and back == data


def error(context):
    """Return checks of an error raised in *context*, each true if as expected."""
    try:
        context.call(fail, "the remote text")
    except KeyError as caught:
        text = str(caught)
        parts = ("the remote text", "in explode", "luggage/weight.py", "in fail", "driver.py")
        return [isinstance(caught, mitogen.core.CallError)] + [part in text for part in parts]


def gone(pids):
    """Return the processes that still exist after 5 s."""
    deadline = time.monotonic() + 5
    while True:
        left = []
        for pid in pids:
            try:
                with open("/proc/%d/stat" % pid) as fp:
                    if fp.read().rpartition(")")[2].split()[0] not in "ZX":
                        left.append(pid)
            except FileNotFoundError:
                pass
        if not left or time.monotonic() > deadline:
            return left
        select.select([], [], [], 0.01)


def run(router, job):
    child = (
        router.ssh(python_path=job["child"], **job["ssh"])
        if job["ssh"]
        else router.local(python_path=job["child"])
    )
    second = router.local(via=child)
    third = router.local(via=second, python_path=job["last"])
    chain = [child, second, third]
    seen = [context.call(who) for context in chain]
    versions = [each for each, _ in seen]
    result = {
        "versions": versions + [child.call(grandchild, job["last"])[0]],
        "errors": [error(context) for context in chain],
        "large": large(child, job["size"]),
        "through": large(third, job["size"] // 10),
    }
    third.shutdown(wait=True)
    result["after shutdown"] = gone([seen[2][1]]), second.call(who)[0]
    return result, [pid for _, pid in seen]


if __name__ == "__main__":
    with mitogen.master.Router() as router:
        result, pids = run(router, json.loads(sys.argv[1]))
    result["left"] = gone(pids)
    result["master"] = version()
    print(json.dumps(result))
