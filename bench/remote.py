"""Functions that children run. There are no imports at the top: they would be part of the cost."""


def noop():
    """Do nothing."""


def pid():
    """Return this process' pid without importing anything new."""
    import os

    return os.getpid()


def import_logging():
    """Import logging and threading."""
    import logging
    import threading

    return len(logging.__name__) + len(threading.__name__)
