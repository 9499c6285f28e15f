"""Functions of a context that leaves its tree."""

import os
import sys

import mitogen
import mitogen.core
import mitogen.unix
from tests.integration.far import work

#: Values kept from before the context left.
KEPT = {}


def state():
    """Return this process's identity and the remains of its parent."""
    return os.getpid(), mitogen.context_id, mitogen.parent_id, mitogen.parent_ids


@mitogen.core.takes_econtext
def leave(path, econtext, twice=False, sender=None):
    """Detach and listen at *path*."""
    KEPT["sender"] = sender
    KEPT["econtext"] = econtext
    econtext.detach()
    if twice:
        econtext.detach()
    mitogen.unix.Listener.build_stream(econtext.router, path)


@mitogen.core.takes_router
def children(router):
    """Start a child and a grandchild; return their identities and relations."""
    child = router.local()
    below = router.local(via=child)
    return [context.call(state) for context in (child, below)]


def import_late():
    """Import a module that was never sent."""
    import tests.integration.far.never_sent as never_sent

    return never_sent


def import_missing():
    import no_such_module

    return no_such_module


def send_home():
    """Send a message to the tree that was left."""
    try:
        KEPT["sender"].send(1)
    except mitogen.core.Error as e:
        return str(e)


def talk():
    """Print and write more than a pipe holds; nothing reads it."""
    for _ in range(2000):
        print("x" * 100)
        sys.stderr.write("y" * 100 + "\n")
    import logging

    logging.getLogger("x").error("into the void")
    return work.echo("printed")


def detach_again():
    KEPT["econtext"].detach()


def stop():
    KEPT["econtext"].broker.shutdown()
