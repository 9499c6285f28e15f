"""Functions for children with a router: mailboxes, senders, files. For either mitogen."""

import mitogen.core

held = []


@mitogen.core.takes_router
def open_mailbox(router):
    """Open a mailbox that is never read; return its sender."""
    held.append(mitogen.core.Receiver(router))
    return held[-1].to_sender()


def drain(count, raw):
    """Read *count* messages of the mailbox opened last; return their total length."""
    total = 0
    for _ in range(count):
        msg = held[-1].get()
        total += len(msg.data if raw else msg.unpickle())
    return total


def pump(sender, count, size, raw):
    """Send *count* messages of *size* bytes."""
    data = b"x" * size
    for _ in range(count):
        if raw:
            sender.send(data, mitogen.core.Message.ENC_BIN)
        else:
            sender.send(data)


@mitogen.core.takes_router
def fetch_digest(path, router):
    """Fetch a file from the master; return its SHA-256."""
    import hashlib

    import mitogen.service

    class Sink:
        def __init__(self):
            self.hash = hashlib.sha256()

        def write(self, data):
            self.hash.update(data)

    sink = Sink()
    ok, _ = mitogen.service.FileService.get(router.context_by_id(0), path, sink)
    return ok and sink.hash.hexdigest()


@mitogen.core.takes_router
def fetch_file(path, router):
    """Fetch a file from the master and drop it; return whether it arrived complete."""
    import os

    import mitogen.service

    with open(os.devnull, "wb") as fp:
        ok, _ = mitogen.service.FileService.get(router.context_by_id(0), path, fp)
    return ok
