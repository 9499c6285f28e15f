"""Functions for call chains with their own thread."""

import threading

BARRIER = threading.Barrier(3)
ORDER = []


def meet():
    """Return the thread's name once three calls are here at the same time."""
    BARRIER.wait(20)
    return threading.get_ident()


def note(number):
    ORDER.append(number)
    return threading.get_ident()


def noted():
    return list(ORDER)


def spin(sender):
    """Report the start, then loop forever."""
    sender.send(True)
    while True:
        pass


def fail():
    raise ValueError("in a worker")


def thread_count():
    return threading.active_count()
