"""A master and a child in one process, with real brokers, threads and a socketpair between them.

For tests that need two threads waiting for each other, which nodes.py does not have. Nothing
sleeps: a test waits for the other side's action.
"""

import contextlib
import os
import socket
import threading
import time
from types import SimpleNamespace

from mitogen import core, parent
from tests import processes
from tests.unit import nodes

__all__ = ["SOON", "Pair", "pair"]

#: Seconds a test waits for an event that should be immediate; only a failure takes this long.
SOON = 20.0


class Pair:
    """A master and a child; `master` and `child` are routers, `context` is the child as seen by the
    master.
    """

    def __init__(self):
        self.logs = []
        self.master = parent.Router(core.Broker(), core.Node(0))
        self.master.branch = parent.Branch(self.master, nodes.Ids(), nodes.Modules(), b"")
        self.child = core.ChildRouter(core.Broker(), core.Node(1, [0]))
        self.child.log_level = 0
        self.child.econtext = SimpleNamespace(
            router=self.child,
            core_source=b"",
            config={"log_levels": []},
            detached=False,
            stdout_log=True,
            import_main=lambda: None,
        )
        for router in (self.master, self.child):
            router.log = self.log
        near, far = socket.socketpair()
        self.down = parent.ChildStream(self.master, 1, near.detach())
        self.down.conn = SimpleNamespace(keepalive_interval=0)
        self.down.blocks.append((1, 2))
        self.down.name = "to the child"
        self.up = self.child.routes.parent = core.Stream(self.child, 0, *[far.detach()] * 2)
        self.dispatcher = self.child.econtext.dispatcher = core.Dispatcher(self.child.econtext)
        parent.defer_sync(self.master.broker, lambda: self.master.branch.add_stream(self.down))
        self.master.broker.defer(self.down.start)
        self.child.broker.defer(self.up.start)
        self.context = self.master.context_by_id(1)
        self.thread = threading.Thread(target=self.dispatcher.run)
        self.thread.start()

    def log(self, level, fmt, *args):
        self.logs.append(fmt % args if args else fmt)

    def settle(self):
        """Return when the child has run the calls it has received so far."""
        self.context.call(time.monotonic)

    def wait_for(self, ready):
        """Return when `ready()` is true; fail if that takes too long."""
        processes.wait_until(ready, SOON)

    def close(self):
        self.dispatcher.end()
        for stream in (self.up, self.down):
            broker = stream.router.broker
            if broker.alive:
                broker.defer(stream.disconnect)
                broker.shutdown()
            broker.join()
            if not stream.closed:
                os.close(stream.rfd)
        self.thread.join(SOON)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def pair():
    """Yield a Pair; all of it has ended afterwards."""
    found = Pair()
    try:
        yield found
    finally:
        found.close()
