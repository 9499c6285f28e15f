"""Functions for the tests to call in other contexts."""

import logging
import os
import pwd
import subprocess
import sys
import threading
import zlib

import mitogen.core
from tests.integration.far import parts

LOG = logging.getLogger("far.work")


def add(a, b=2, *rest, **named):
    """Return all arguments, to show how they were passed."""
    return a + b, rest, named


def identity():
    """Return the identity of this process: pid, account, parent's pid."""
    return os.getpid(), pwd.getpwuid(os.geteuid()).pw_name, os.getppid()


def identity_of(_):
    """Return the pid of this process, whatever the arguments."""
    return os.getpid()


def origin():
    """Return the origin of this module and of its imports, and a result of both."""
    return __file__, parts.__file__, parts.double(parts.GREETING)


def fail_inside(text):
    raise ValueError(text)


def fail(text):
    """Raise ValueError(text) one function further down."""
    fail_inside(text)


class OwnError(Exception):
    """An error whose type the caller does not have as a built-in."""


def fail_own(text):
    raise OwnError(text)


def chatter(text):
    """Print and log *text*."""
    print("printed " + text)
    sys.stderr.write("complained " + text + "\n")
    LOG.warning("logged %s", text)


def echo(value):
    return value


def checksum(data):
    """Return (size, CRC) of *data*."""
    return len(data), zlib.crc32(data)


def zeros(size, byte=0):
    """Return *size* bytes."""
    return bytes((byte,)) * size


def count_to(sender, limit):
    """Send 0 .. limit-1, then close."""
    for number in range(limit):
        sender.send(number)
    sender.close()


@mitogen.core.takes_router
def sum_of_mailbox(reply, router):
    """Send a Sender for a new mailbox to *reply*; return the sum of its messages until its end."""
    receiver = mitogen.core.Receiver(router)
    reply.send(receiver.to_sender())
    return sum(msg.unpickle() for msg in receiver)


def send_all(sender, values):
    """Send each of *values*, then close."""
    for value in values:
        sender.send(value)
    sender.close()


def hang(started=None):
    """Report the start, then never return."""
    if started is not None:
        started.send(os.getpid())
    threading.Event().wait()


def deaf(started):
    """Report the start, then never return, despite interrupts."""
    started.send(os.getpid())
    while True:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


def call_in(context, function, *args):
    """Call *function* of this module in *context*."""
    return context.call(globals()[function], *args)


def hang_in(context):
    """Wait for a call in another context that never returns."""
    return context.call(hang)


def sleeper(seconds=600, **kwargs):
    """Start a program; return its pid."""
    return subprocess.Popen(["sleep", str(seconds)], **kwargs).pid


def leave(status):
    """Call sys.exit()."""
    sys.exit(status)


def interrupt():
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


@mitogen.core.takes_router
def open_local(router, **kwargs):
    """Connect to a local context from here, as a program's own code might."""
    context = router.local(**kwargs)
    return context, context.call(os.getpid)


def hang_below(context, started):
    """Wait for a call in *context* that never returns; report when it is sent."""
    receiver = context.call_async(hang)
    started.send(os.getpid())
    return receiver.get().unpickle()


def spin(started):
    """Report the start, then use the processor forever."""
    started.send(os.getpid())
    while True:
        pass


def wait_for_program(started):
    """Wait for a program that does not end."""
    program = subprocess.Popen(["sleep", "600"])
    started.send(program.pid)
    try:
        return program.wait()
    finally:
        program.kill()
        program.wait()


def ignore_interrupts():
    """Never return, whatever exception is raised in this thread."""
    while True:
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


def belongings():
    """Return the number of this process' descriptors, and its children."""
    with open("/proc/self/task/%d/children" % os.getpid()) as fp:
        return len(os.listdir("/proc/self/fd")), sorted(map(int, fp.read().split()))


def ask(context):
    """Send *context* a message that wants a reply, to a mailbox that does not exist."""
    message = mitogen.core.Message(handle=70000, data=mitogen.core.encode(None))
    return context.send_await(message, deadline=10)


def piece(number, size):
    """Return *size* bytes that identify the piece."""
    return bytes((number % 251,)) * size


def push(sender, count, size):
    """Send *count* pieces, then close the sender."""
    for number in range(count):
        sender.send(piece(number, size))
    sender.close()


def read_all(receiver):
    """Return (number of messages, CRC of all data)."""
    count = crc = 0
    for msg in receiver:
        crc = zlib.crc32(msg.unpickle(), crc)
        count += 1
    return count, crc


@mitogen.core.takes_router
def read_later(reply, ready, router):
    """Send a Sender for a mailbox to *reply* and one that starts the reading to *ready*."""
    receiver, go = mitogen.core.Receiver(router), mitogen.core.Receiver(router)
    reply.send(receiver.to_sender())
    ready.send(go.to_sender())
    go.get()
    return read_all(receiver)


def warn_early(warning, timeout=None):
    """Make senders here warn after *warning* s without credit, and give up after *timeout* s."""
    mitogen.core.CREDIT_WARNING = warning
    if timeout is not None:
        mitogen.core.CREDIT_TIMEOUT = timeout


def noop():
    """Return nothing."""
