"""Nodes of a tree in one process, joined by in-memory pipes: a test controls each step.

Real: Router, Branch, Framer, windows, handlers, calls. Replaced: the broker (no thread, no
descriptor), the streams (bytes in a list), the clock, and the lock on which one thread waits for
another. Waiting on it lets everything else run, so a test needs no second thread, and a wait
without end raises :class:`Deadlock` at once.

    with nodes.network() as net:
        master, child = net.line(2)
        got = child.inbox(1000)
        master.send(child, 1000, b"x")      # only on the pipe yet
        net.pump()                          # delivered

Rules
    1. Nothing moves except in Network.pump(), in .advance() and in a wait.
    2. An exception in a deferred function or a handler's caller reaches the test.
    3. Outside of these a node is on a program's thread, inside of them on the broker's.
"""

import contextlib
import heapq
import sys
import zlib
from collections import deque
from types import SimpleNamespace

from mitogen import core, parent

__all__ = ["Broker", "Deadlock", "End", "Lock", "Network", "Node", "frame", "network"]

#: Seconds of the network's clock after which a wait counts as endless.
LONGEST = 100000
#: Rounds of pump() after which it counts as an endless loop.
MAX_ROUNDS = 20000


class Deadlock(AssertionError):
    """An endless wait: nothing is left that could end it."""


def frame(
    dst=0, handle=0, data=b"", src=0, auth=None, reply_to=0, flags=0, number=0, magic=core.MAGIC
):
    """Return the bytes of one frame; `auth` is `src` if not given."""
    auth = src if auth is None else auth
    head = core._HEADER.pack(magic, flags, dst, src, auth, handle, reply_to, len(data))
    return head + (core.NUMBER.pack(number) if flags & 3 else b"") + data


class Lock:
    """A replacement for the held lock of core.new_lock(): acquire() pumps the network."""

    def __init__(self, net):
        self.net = net
        self.held = True

    def release(self):
        assert self.held, "released twice"
        self.held = False

    def acquire(self, blocking=True, timeout=-1):
        """Acquire like a lock; advance the clock by `timeout` at most, if nothing else can run."""
        if self.held and blocking:
            self.net.wait(lambda: not self.held, None if timeout < 0 else timeout)
        if self.held:
            return False
        self.held = True
        return True


class Poller:
    """A poller that only records the watched descriptors."""

    def __init__(self):
        self.table = {}

    def watch(self, fd, read=None, write=None):
        if read or write:
            self.table[fd] = (read, write)
        else:
            self.table.pop(fd, None)


class Broker:
    """A core.Broker without thread and descriptors; the network runs it."""

    shutdown_timeout = 3.0

    def __init__(self, net):
        self.net = net
        self.poller = Poller()
        self.deferred = deque()
        self.timers = []
        self.sequence = 0
        self.running = 0
        self.alive = True
        self.closing = self.stopping = False
        self.holds = set()
        self.exit_actions = []

    def on_thread(self):
        return self.running > 0

    def defer(self, func, *args, **kwargs):
        self.deferred.append((func, args, kwargs))

    def after(self, seconds, func):
        cell = [func]
        self.sequence += 1
        heapq.heappush(self.timers, (self.net.time + seconds, self.sequence, cell))
        return cell

    @contextlib.contextmanager
    def thread(self):
        """Put the test on the broker's thread inside the `with`."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def run_deferred(self):
        """Run the functions deferred so far; return whether there were any."""
        todo, self.deferred = self.deferred, deque()
        with self.thread():
            for func, args, kwargs in todo:
                func(*args, **kwargs)
        return bool(todo)

    def run_timers(self):
        """Run the due timers; return whether there were any."""
        due = False
        with self.thread():
            while self.timers and self.timers[0][0] <= self.net.time:
                for func in heapq.heappop(self.timers)[2]:
                    due = True
                    func()
        return due

    def shutdown(self):
        self.defer(self._shutdown)

    def _shutdown(self):
        if not self.closing:
            self.closing = True
            core.fire(self, "before_shutdown")
            core.fire(self, "shutdown")
            self.stop()

    def stop(self):
        self.stopping = self.closing and not self.holds

    def end(self):
        """Run the actions that core.Broker runs at its end."""
        self.alive = False
        with self.thread():
            while self.deferred:
                func, args, kwargs = self.deferred.popleft()
                func(*args, **kwargs)
            for func in list(self.exit_actions):
                func()
            core.fire(self, "exit")


class End:
    """One end of an in-memory pipe, with the parts of a stream that Router and Branch use."""

    auth_id = None
    connecting = None
    detached = False
    backlog = ()
    #: While True, sent data stays in the queue.
    stalled = False
    #: Bytes per piece in which data arrives at the other end; None: frame by frame.
    piece = None

    allows = parent.ChildStream.allows
    kill = parent.ChildStream.kill
    give = parent.ChildStream.give

    def __init__(self, node, remote_id, name):
        self.node = node
        self.router = node.router
        self.remote_id = remote_id
        self.name = name
        self.framer = core.Framer()
        self.out = deque()
        self.peer = None
        self.closed = False
        self.reason = None
        self.waiters = []
        self.egress_ids = set()
        self.received = 0
        #: (bytes, whether corked) of each frame sent.
        self.sent = []
        # State that a Branch keeps on the stream to a child.
        self.blocks = []
        self.sent_modules = set()
        self.when_gone = []
        self.gone = False
        self.conn = SimpleNamespace(keepalive_interval=0, keepalive_count=3)
        self.process = SimpleNamespace(signals=[])
        self.process.signal = self.process.signals.append

    @property
    def queued(self):
        return sum(map(len, self.out)) if self.stalled else 0

    def send(self, head=b"", body=b"", cork=False, more=()):
        parts = [head, body, *more]
        for at in range(0, 0 if self.closed else len(parts), 2):
            data = b"".join(parts[at : at + 2])
            self.sent.append((data, cork))
            self.out.append(data)

    def flush(self):
        pass

    def frames(self):
        """Return the frames sent so far, as Messages."""
        return core.Framer().feed(b"".join(data for data, _ in self.sent))

    def write(self, data):
        """Put raw bytes on the pipe, as a hostile neighbor might."""
        self.out.append(data)

    def when_drained(self, func):
        self.router.broker.defer(self._when_drained, func)

    def _when_drained(self, func):
        if self.closed or self.queued * 2 < core.HIGH_WATER:
            func()
        else:
            self.waiters.append(func)

    def deliver(self, count=None):
        """Deliver `count` queued pieces (None: all) to the other end; return whether any moved.

        On a stalled end this simulates a slow link.
        """
        moved = False
        while self.out and not self.peer.closed and count != 0:
            data = self.out.popleft()
            moved = True
            for at in range(0, len(data), self.piece or len(data) or 1):
                self.peer.receive(data[at : at + (self.piece or len(data))])
            count = None if count is None else count - 1
        if self.peer.closed:
            self.out.clear()
        if moved and self.waiters and self.queued * 2 < core.HIGH_WATER:
            waiters, self.waiters = self.waiters, []
            with self.router.broker.thread():
                for func in waiters:
                    func()
        return moved

    def receive(self, data):
        """Receive bytes like core.Stream."""
        if self.closed:
            return
        self.received += len(data)
        with self.router.broker.thread():
            try:
                for msg in self.framer.feed(data):
                    self.router.on_frame(msg, self)
                    if self.closed:
                        break
            except core.StreamError as e:
                self.router.log(core.ERROR, "%s: %s; the stream is dropped", self.name, e)
                self.disconnect(str(e))

    def disconnect(self, reason="closed"):
        """Disconnect like core.Stream; the other end gets EOF after it has read all sent data."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        with self.router.broker.thread():
            waiters, self.waiters = self.waiters, []
            for func in waiters:
                func()
            self.router.on_stream_lost(self)
            core.fire(self, "disconnect")
            self.gone = True
            for func in list(self.when_gone):
                func()

    def __repr__(self):
        return "End(%r)" % (self.name,)


class Modules:
    """A stand-in for a ModuleResponder: serves the modules of `sources` at once."""

    def __init__(self):
        self.sources = {}
        self.pushed = []
        self.fetched = []
        self.forgotten = []

    def push(self, context, names):
        self.pushed.append((context.context_id, list(names)))

    def segment(self, fullname):
        if fullname not in self.sources:
            return [[[fullname, None, None, ""]], b"", []]
        source = self.sources[fullname]
        return [[[fullname, fullname + ".py", None, len(source)]], zlib.compress(source), []]

    def segments(self, names):
        return [self.segment(name) for name in names]

    def fetch(self, fullname, done, sent=()):
        self.fetched.append((fullname, sorted(sent)))
        done(self.segment(fullname))

    def own_names(self):
        return ["app"]

    def forget(self, context_id):
        self.forgotten.append(context_id)


class Ids:
    """A stand-in for a master's IdAllocator."""

    def __init__(self, first=100):
        self.next_id = first

    def allocate(self):
        self.next_id += 1
        return self.next_id - 1

    def request(self, done):
        self.next_id += 1000
        done((self.next_id - 1000, self.next_id))


class Node:
    """One context: a router with its broker, and methods for tests."""

    def __init__(self, net, context_id, above=None, broker=None):
        self.net = net
        self.id = context_id
        self.broker = broker or Broker(net)
        self.logs = []
        ids = [above.id, *above.router.node.parent_ids] if above else []
        identity = core.Node(context_id, ids)
        if above is None:
            self.router = parent.Router(self.broker, identity)
            self.router.branch = parent.Branch(self.router, Ids(), Modules(), b"")
        else:
            self.router = core.ChildRouter(self.broker, identity)
            self.router.log_level = 0
            self.router.importer = core.Importer(self.router)
            self.router.econtext = SimpleNamespace(
                router=self.router,
                core_source=b"",
                config={"log_levels": []},
                detached=False,
                stdout_log=True,  # prepared
                import_main=lambda: None,
            )
        self.router.log = lambda level, fmt, *args: self.logs.append(fmt % args if args else fmt)
        #: The stream to the parent, and the streams to the children by id.
        self.up = None
        self.down = {}
        self.serving = False

    def __repr__(self):
        return "Node(%d)" % self.id

    def context(self, node):
        """Return the Context that represents another node here."""
        return self.router.context_by_id(getattr(node, "id", node))

    def inbox(self, handle, **kwargs):
        """Return the list of messages that arrive at `handle`."""
        found = []
        self.router.add_handler(found.append, handle, **kwargs)
        return found

    def send(self, node, handle, data=b"", wait=True, **kwargs):
        """Send raw bytes to another node (or id); return the Message."""
        kwargs.setdefault("flags", core.RAW)
        msg = core.Message(dst_id=getattr(node, "id", node), handle=handle, data=data, **kwargs)
        self.router.route(msg, wait)
        return msg

    def ask(self, node, handle, data=b"", **kwargs):
        """Send with a reply handle; return the list that receives the answer."""
        target = self.context(node)
        answers = []
        reply_to = self.router.add_handler(
            answers.append, self.router.new_handle(False), persist=False, respondent=target
        )
        self.send(node, handle, data, reply_to=reply_to, **kwargs)
        return answers

    def dispatcher(self, serve=False):
        """Give a child a dispatcher and return it. run_calls() runs the calls that arrived.

        :param bool serve: the network runs them whenever there are any
        """
        self.serving = serve
        self.router.econtext.dispatcher = core.Dispatcher(self.router.econtext)
        return self.router.econtext.dispatcher

    def run_calls(self):
        """Run the calls that have arrived, as a child's main thread does."""
        dispatcher = self.router.econtext.dispatcher
        dispatcher.ended = False
        dispatcher.lock = SimpleNamespace(acquire=dispatcher.end, release=lambda: None)
        dispatcher.run()

    def attach(self, child, context_id=None):
        """Join `child` to this node; return the two ends."""
        parent.upgrade(self.router) if self.up else None
        here = End(self, child.id if context_id is None else context_id, "to %d" % child.id)
        there = End(child, self.id, "parent of %d" % child.id)
        here.peer, there.peer = there, here
        self.net.ends += [here, there]
        here.blocks.append((here.remote_id, here.remote_id + 1))
        child.router.routes.parent = child.up = there
        self.down[child.id] = here
        with self.broker.thread():
            self.router.branch.add_connecting(SimpleNamespace(stream=here))
            self.router.branch.add_stream(here)
        return here, there


class Network:
    """All nodes of a test, their pipes and the clock."""

    def __init__(self):
        self.time = 1000.0
        self.nodes = []
        self.ends = []

    def now(self):
        return self.time

    def node(self, context_id, above=None, **kwargs):
        """Add a node, joined to `above`."""
        node = Node(self, context_id, above, **kwargs)
        self.nodes.append(node)
        if above is not None:
            above.attach(node)
            grand = above
            # Each hop on the way knows the id because the master allocated it.
            while grand.up:
                below, grand = grand, grand.up.peer.node
                grand.down[below.id].blocks.append((context_id, context_id + 1))
        return node

    def line(self, count):
        """Return `count` nodes in a line, ids from 0; routes are known."""
        above = None
        for context_id in range(count):
            above = self.node(context_id, above)
        self.pump()
        return self.nodes[-count:]

    def step(self):
        """Let each node run deferred functions and receive data; return whether any did."""
        moved = False
        for node in self.nodes:
            moved |= node.broker.run_deferred()
        for end in list(self.ends):
            if not end.stalled:
                moved |= end.deliver()
                if end.closed and not end.peer.closed:
                    end.peer.disconnect("EOF")
                    moved = True
        for node in self.nodes:
            if node.serving and not node.router.econtext.dispatcher.current:
                if node.router.econtext.dispatcher.queue:
                    node.run_calls()
                    moved = True
        return moved

    def pump(self):
        """Let everything run that can run, without advancing the clock."""
        for _ in range(MAX_ROUNDS):
            if not self.step():
                return
        raise AssertionError("endless loop: something happens in each round of pump()")

    def _next_timer(self, limit):
        times = [node.broker.timers[0][0] for node in self.nodes if node.broker.timers]
        return min(times + [limit])

    def advance(self, seconds):
        """Advance the clock, with everything that happens meanwhile."""
        end = self.time + seconds
        self.pump()
        while True:
            self.time = max(self.time, self._next_timer(end))
            ran = [node.broker.run_timers() for node in self.nodes]
            self.pump()
            if self.time >= end and not any(ran):
                return

    def wait(self, ready, timeout=None):
        """Run everything until `ready()`, at most `timeout` seconds, as a program's thread."""
        deadline = self.time + (3600 if timeout is None else timeout)
        while not ready():
            if self.step():
                continue
            if self.time >= deadline:
                if timeout is None:
                    raise Deadlock("a program's thread waits forever")
                return
            self.time = self._next_timer(deadline)
            if self.time > LONGEST:
                raise Deadlock("a program's thread polls forever")
            for node in self.nodes:
                node.broker.run_timers()


@contextlib.contextmanager
def network():
    """Yield a Network; inside the `with`, core's locks and clock are the network's."""
    net = Network()
    places = [
        (module, name)
        for path, module in sorted(sys.modules.items())
        if path.startswith("mitogen.core")
        for name in ("new_lock", "now")
        if name in vars(module)
    ]
    before = [(module, name, getattr(module, name)) for module, name in places]
    for module, name, _ in before:
        replacement = net.now if name == "now" else lambda: Lock(net)
        setattr(module, name, replacement)
    try:
        yield net
    finally:
        for module, name, value in before:
            setattr(module, name, value)
