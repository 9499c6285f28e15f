"""Measure mitogen: the checkout or PyPI's, depending on the order of sys.path.

Rules: only names that both versions have are used. Each difference is a small function; the only
one is `encode` and `decode` of the codec, which are measured for ours alone. Each function takes
(setting, **params), returns {key: number} in the units of bench/table.py, and ends its processes.
"""

import contextlib
import filecmp
import hashlib
import mmap
import os
import pathlib
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

import probe
import remote

MB = 1000 * 1000
SETTLE = 0.2  # seconds; work after a connect, on a pipe, is done by then


def prepare(task):
    """Put the measured library first on sys.path."""
    sys.path.insert(0, task.library)
    sys.path.insert(1, task.setting.tree)
    import mitogen

    assert mitogen.__file__.startswith(task.library), mitogen.__file__


@contextlib.contextmanager
def new_router():
    """Yield a router; shut its broker down at the end."""
    import mitogen.master

    broker = mitogen.master.Broker()
    try:
        yield mitogen.master.Router(broker)
    finally:
        broker.shutdown()
        broker.join()


# ---- connections


def connect_local(router, setting, **kwargs):
    return router.local(python_path=setting.python, **kwargs)


def connect_ssh(router, setting, config=None, **kwargs):
    return router.ssh(
        hostname=setting.host,
        ssh_args=["-F", config or setting.ssh_config],
        python_path=setting.python,
        **kwargs,
    )


def connect_sudo(router, setting, via):
    return router.sudo(via=via, username=setting.sudo_user, python_path=setting.python)


def connect_hops(router, setting):
    context = None
    for _ in range(3):
        context = connect_local(router, setting, via=context)
    return context


WAYS = {"local": connect_local, "ssh": connect_ssh, "hops": connect_hops}


def warm_up(context, count=200):
    """Import and allocate everything that calls need."""
    for _ in range(count):
        context.call(remote.noop)


# ---- calls


def call(setting, where, count):
    """Return microseconds per call: the median of ten batches."""
    with new_router() as router:
        context = WAYS[where](router, setting)
        warm_up(context)
        batches = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(count // 10):
                context.call(remote.noop)
            batches.append((time.perf_counter() - start) / (count // 10))
        return {"us": statistics.median(batches) * 1e6}


def pipeline(contexts, count):
    """Make *count* calls, rotating among the contexts; then collect all answers."""
    receivers = [contexts[i % len(contexts)].call_async(remote.noop) for i in range(count)]
    for receiver in receivers:
        receiver.get().unpickle()


def outstanding(setting, children, count, times):
    """Return calls per second with *count* outstanding."""
    with new_router() as router:
        contexts = [connect_local(router, setting) for _ in range(children)]
        for context in contexts:
            warm_up(context, 20)
        pipeline(contexts, count)
        seconds = [probe.timed(pipeline, contexts, count)[0] for _ in range(times)]
        return {"rate": count / statistics.median(seconds)}


def cpu(setting, count):
    """Return CPU seconds of all processes per 10,000 calls."""
    with new_router() as router:
        context = connect_local(router, setting)
        warm_up(context)
        pipeline([context], 1000)
        before = probe.cpu_seconds()
        for _ in range(count):
            context.call(remote.noop)
        between = probe.cpu_seconds()
        for _ in range(count // 1000):
            pipeline([context], 1000)
        after = probe.cpu_seconds()
    share = 10000.0 / count
    return {"single": (between - before) * share, "pipelined": (after - between) * share}


# ---- connecting


def connect(setting, where, count):
    """Return milliseconds per connect; `over`: minus a plain ssh that starts Python."""
    with new_router() as router:
        way = WAYS.get(where)
        via = connect_ssh(router, setting) if where == "sudo" else None
        seconds, plain = [], []
        for _ in range(count + 1):
            took, context = (
                probe.timed(connect_sudo, router, setting, via)
                if via
                else probe.timed(way, router, setting)
            )
            seconds.append(took * 1e3)
            context.shutdown(wait=True)
            if where == "ssh":
                argv = setting.ssh_command(setting.python + " -c pass")
                took, _ = probe.timed(subprocess.run, argv, check=True, stdin=subprocess.DEVNULL)
                plain.append(took * 1e3)
    # The first connect of a process also imports and compresses, so it has its own key.
    numbers = {"first": seconds[0], "ms": statistics.median(seconds[1:])}
    if plain:
        numbers["plain"] = statistics.median(plain)
        numbers["over"] = numbers["ms"] - numbers["plain"]
    return numbers


def connect_many(setting, count, threads):
    """Return seconds until all contexts are connected."""
    with new_router() as router:
        took, contexts = probe.timed(
            probe.run_threads, lambda _: connect_local(router, setting), count, threads
        )
        assert len({context.context_id for context in contexts}) == count
        return {"s": took}


def script(setting, count):
    """Return milliseconds of a complete program."""
    argv = [setting.python, setting.script("mitogen"), sys.path[0]]
    return {"ms": probe.script_times(argv, count) * 1e3}


def import_time(setting, count):
    """Return milliseconds that `import mitogen.master` adds to an empty program, in turn."""
    code = "import sys; sys.path.insert(0, sys.argv[1])"
    empty, full = [], []
    for _ in range(count):
        empty.append(probe.script_times([setting.python, "-c", code, sys.path[0]], 1))
        with_import = [setting.python, "-c", code + "; import mitogen.master", sys.path[0]]
        full.append(probe.script_times(with_import, 1))
    return {"ms": (statistics.median(full) - statistics.median(empty)) * 1e3}


# ---- a slow link


def step(counts, function, *args):
    """Run one step; return (seconds, upward flights, result)."""
    before = probe.read_counts(counts)["up_flights"]
    seconds, result = probe.timed(function, *args)
    return seconds, probe.read_counts(counts)["up_flights"] - before, result


def connect_and_call(router, setting, config):
    context = connect_ssh(router, setting, config)
    context.call(os.getpid)
    return context


def sudo_and_call(router, setting, via):
    connect_sudo(router, setting, via).call(os.getpid)


def run_true(setting, config):
    argv = setting.ssh_command("true", config=config)
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, timeout=30)


def link_steps(setting, delay, short=False):
    """Yield (step, seconds, flights) over a link of *delay* ms, once per step.

    :param short: only steps that start an ssh.
    """
    import tree_inside.job
    import tree_top.job

    # Each connection has its own file, because a proxy counts from zero.
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        counts = [os.path.join(directory, name) for name in ("true", "connect")]
        config = setting.config_for_link(delay, counts[0])
        yield ("true", *step(counts[0], run_true, setting, config)[:2])
        config = setting.config_for_link(delay, counts[1])
        with new_router() as router:
            seconds, flights, context = step(counts[1], connect_and_call, router, setting, config)
            yield "connect", seconds, flights
            if short:
                return
            context.call(remote.noop)
            yield ("warm", *step(counts[1], context.call, remote.noop)[:2])
            yield ("tree", *step(counts[1], context.call, tree_top.job.run)[:2])
            yield ("tree_inside", *step(counts[1], context.call, tree_inside.job.run)[:2])
            yield ("sudo", *step(counts[1], sudo_and_call, router, setting, context)[:2])


def link(setting, delays, repeat):
    """Return round trips per step, from the extra time on a longer link; flights; elapsed."""
    times, flights = {}, {}

    def note(steps, delay):
        for name, seconds, count in steps:
            times.setdefault(name, {}).setdefault(delay / 1e3, []).append(seconds)
            flights.setdefault(name, []).append(count)

    for _ in link_steps(setting, 0):  # leave out the extra cost of the first one
        pass
    for delay in delays:
        for _ in range(repeat):
            note(link_steps(setting, delay), delay)
    for _ in range(2 * repeat - 2):  # logins vary most
        note(link_steps(setting, delays[0], short=True), delays[0])
    return link_numbers(times, flights, delays[0] / 1e3)


def link_numbers(times, flights, delay):
    """Return trips, flights and elapsed (in round trips of *delay*) per step."""
    numbers = {name: probe.slope(each) for name, each in times.items()}
    numbers["connect_slope"] = numbers["connect"] - numbers["true"]
    # The slope is unsuitable here: over a long link OpenSSH's client holds stdin back for a round
    # trip that on a short one is hidden by the login.
    numbers["connect"] = (min(times["connect"][delay]) - min(times["true"][delay])) / delay
    for name, each in flights.items():
        numbers[name + "_flights"] = statistics.median(each)
    for name, each in times.items():
        numbers[name + "_elapsed"] = min(each[delay]) / delay
    return numbers


# ---- bytes


@contextlib.contextmanager
def counted_ssh(setting):
    """Yield (path of an ssh that runs its command here, function that returns the counts)."""
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        counts = pathlib.Path(directory, "counts")
        counts.write_bytes(bytes(24))
        ssh = pathlib.Path(directory, "ssh")
        line = '#!/bin/sh\nexec {} -S -E {} {} "$@"\n'
        ssh.write_text(line.format(setting.python, setting.script("tee"), counts))
        ssh.chmod(0o755)
        with counts.open("r+b") as fp, mmap.mmap(fp.fileno(), 24) as view:
            yield str(ssh), lambda: struct.unpack("3Q", view[:])


def connect_counted(router, ssh, python):
    """Connect through it; if `python` is None, use the library's default."""
    kwargs = {"python_path": python} if python else {}
    context = router.ssh(hostname="bench-host", ssh_path=ssh, **kwargs)
    time.sleep(SETTLE)
    return context


def count_bytes(setting):
    """Return the bytes of the start, of a no-op call and of a tree of modules."""
    import tree_top.job

    numbers = {"source": setting.tree_size}
    with counted_ssh(setting) as (ssh, counts), new_router() as router:
        context = connect_counted(router, ssh, "python3")
        numbers["command"], numbers["preamble"], numbers["hello"] = counts()
        warm_up(context, 20)
        before = counts()
        for _ in range(100):
            context.call(remote.noop)
        after = counts()
        numbers["call_down"] = (after[1] - before[1]) / 100
        numbers["call_up"] = (after[2] - before[2]) / 100
        numbers["call"] = numbers["call_down"] + numbers["call_up"]
        context.call(tree_top.job.run)
        numbers["tree"] = counts()[1] - after[1]
    with counted_ssh(setting) as (ssh, counts), new_router() as router:
        try:
            connect_counted(router, ssh, None)
            numbers["command_search"] = counts()[0]
        except Exception as error:  # the peer needs `python`, which may be missing
            numbers["notes"] = ["no python_path: {}".format(str(error).splitlines()[0])]
    return numbers


# ---- bulk, memory, latency


def send_down(context, count, raw):
    """Return MB/s of 1 MB messages into a mailbox of the child."""
    import remote_flow

    import mitogen.core

    sender = context.call(remote_flow.open_mailbox)
    data = b"x" * MB
    start = time.perf_counter()
    done = context.call_async(remote_flow.drain, count, raw)
    for _ in range(count):
        if raw:
            sender.send(data, mitogen.core.Message.ENC_BIN)
        else:
            sender.send(data)
    assert done.get().unpickle() == count * MB
    return count / (time.perf_counter() - start)


def send_up(router, context, count, raw):
    """Return MB/s of 1 MB messages into a mailbox of ours."""
    import remote_flow

    import mitogen.core

    receiver = mitogen.core.Receiver(router)
    start = time.perf_counter()
    done = context.call_async(remote_flow.pump, receiver.to_sender(), count, MB, raw)
    for _ in range(count):
        msg = receiver.get()
        assert len(msg.data if raw else msg.unpickle()) == MB
    took = time.perf_counter() - start
    done.get().unpickle()
    receiver.close()
    return count / took


def bulk(setting, count):
    """Return MB/s both ways, as values and raw."""
    numbers = {}
    with new_router() as router:
        context = connect_local(router, setting)
        for raw in (False, True):
            send_down(context, 5, raw)
            send_up(router, context, 5, raw)
            prefix = "raw_" if raw else ""
            numbers[prefix + "down"] = send_down(context, count, raw)
            numbers[prefix + "up"] = send_up(router, context, count, raw)
    return numbers


def files(setting, megabytes):
    """Return MB/s of a file fetched from the master's FileService."""
    import remote_flow

    import mitogen.service

    with tempfile.NamedTemporaryFile(dir=setting.scratch) as fp, new_router() as router:
        fp.truncate(megabytes * MB)
        service = mitogen.service.FileService(router)
        service.register(fp.name)
        pool = mitogen.service.Pool(router=router, services=[service])
        try:
            context = connect_local(router, setting)
            context.call(remote_flow.fetch_file, fp.name)
            took, ok = probe.timed(context.call, remote_flow.fetch_file, fp.name)
            assert ok
        finally:
            pool.stop()
        return {"rate": megabytes / took}


def make_file(path, megabytes):
    """Write a file in which no two parts are equal; return its SHA-256."""
    digest = hashlib.sha256()
    block = bytearray(os.urandom(MB))
    with open(path, "wb") as fp:
        for number in range(megabytes):
            block[:8] = struct.pack(">Q", number)
            digest.update(block)
            fp.write(block)
    return digest.hexdigest()


def chain_of(router, setting, count):
    """Return contexts, each below the previous one."""
    contexts = []
    for _ in range(count):
        contexts.append(connect_local(router, setting, via=contexts[-1] if contexts else None))
    return contexts


def measured(contexts, function, *args):
    """Run a function; return (seconds, MiB by which the process that grew most did, its result)."""
    growth = Growth(os.getpid(), *(context.call(remote.pid) for context in contexts))
    took, result = probe.timed(function, *args)
    return took, growth.most(), result


def fileservice(setting, megabytes):
    """Return MB/s of a file fetched from three hops below, and the growth of any process."""
    import remote_flow

    import mitogen.service

    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory, new_router() as router:
        path, warm = os.path.join(directory, "file"), os.path.join(directory, "warm")
        digest = make_file(path, megabytes)
        make_file(warm, 20)
        service = mitogen.service.FileService(router)
        service.register_prefix(directory)
        pool = mitogen.service.Pool(router=router, services=[service])
        try:
            contexts = chain_of(router, setting, 3)
            far = contexts[-1]
            assert far.call(remote_flow.fetch_file, warm)
            took, grown, ok = measured(contexts, far.call, remote_flow.fetch_file, path)
            assert ok
            assert far.call(remote_flow.fetch_digest, path) == digest
        finally:
            pool.stop()
        return {"rate": megabytes / took, "growth": grown}


def put_get(setting, megabytes):
    """Return MB/s of put() and get(), one hop and three, with checks; and the maximum growth."""
    numbers = {"growth": 0}
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory, new_router() as router:
        names = ("file", "warm", "there", "back")
        path, warm, there, back = (os.path.join(directory, name) for name in names)
        make_file(path, megabytes)
        make_file(warm, 20)
        contexts = chain_of(router, setting, 3)
        near, far = contexts[0], contexts[-1]
        for put_key, get_key, context in (("put", "get", near), ("deep_put", "deep_get", far)):
            context.put(warm, there)
            context.get(warm, back)
            for key, call in (
                (put_key, (context.put, path, there)),
                (get_key, (context.get, there, back)),
            ):
                took, grown, _ = measured(contexts, *call)
                numbers[key] = megabytes / took
                numbers["growth"] = max(numbers["growth"], grown)
            assert filecmp.cmp(path, back, shallow=False)
    return numbers


class Growth:
    """The maximum growth of any of some processes, in MiB, from its construction to `most()`."""

    def __init__(self, *pids):
        self.before = {pid: probe.memory(pid) for pid in pids}
        for pid in pids:
            probe.reset_peak(pid)

    def most(self):
        return max(probe.memory(pid, "VmHWM") - was for pid, was in self.before.items())

    def settled(self, quiet, limit=20.0):
        """Wait until nothing has grown for *quiet* seconds, *limit* at most; return `most()`."""
        deadline, since, last = time.monotonic() + limit, time.monotonic(), self.most()
        while time.monotonic() < min(deadline, since + quiet):
            time.sleep(0.05)
            now = self.most()
            if now > last + 0.1:
                last, since = now, time.monotonic()
        return last


def push(sender, megabytes):
    """Send 1 MiB messages until the mailbox is closed."""
    data = b"x" * (1 << 20)
    with contextlib.suppress(Exception):
        for _ in range(megabytes):
            sender.send(data)


def push_at(context, megabytes, quiet, stop):
    """Push to a mailbox that is never read, whose process is stopped if *stop*; return growth."""
    import remote_flow

    sender = context.call(remote_flow.open_mailbox)
    pid = context.call(remote.pid)
    growth = Growth(os.getpid(), pid)
    if stop:
        os.kill(pid, signal.SIGSTOP)
    thread = threading.Thread(target=push, args=(sender, megabytes), daemon=True)
    thread.start()
    most = growth.settled(quiet)
    os.kill(pid, signal.SIGKILL)  # it drops the queue, and ends a push that waits
    thread.join(10)
    return most


def pushed_by(router, context, megabytes, quiet):
    """Make the child push to a mailbox of ours that is never read; return growth."""
    import remote_flow

    import mitogen.core

    receiver = mitogen.core.Receiver(router)
    pid = context.call(remote.pid)
    context.call(remote_flow.drain, 0, False)
    growth = Growth(os.getpid(), pid)
    context.call_no_reply(remote_flow.pump, receiver.to_sender(), megabytes, 1 << 20, False)
    most = growth.settled(quiet)
    os.kill(pid, signal.SIGKILL)
    return most


def slow_reader(setting, megabytes, quiet):
    """Return MiB by which either side grows while values are sent to a reader that is stalled."""
    numbers = {}
    # Each has its own router: memory kept by one would hide the growth of the next.
    for name, measure in {
        "down": lambda router, context: push_at(context, megabytes, quiet, False),
        "stopped": lambda router, context: push_at(context, megabytes, quiet, True),
        "up": lambda router, context: pushed_by(router, context, megabytes, quiet),
    }.items():
        numbers[name] = in_fork(setting, measure)
    return numbers


def in_fork(setting, measure):
    """Run it with a context in a forked process (no thread runs yet); return its number."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        text = "nan"
        try:
            with new_router() as router:
                text = repr(measure(router, connect_local(router, setting)))
                os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as fp:
        text = fp.read()
    os.waitpid(pid, 0)
    if not text:
        raise RuntimeError("the measuring process ended without a number")
    return float(text)


def busy(setting, megabytes):
    """Return milliseconds of a call while another context sends us 1 MB messages: median, worst."""
    import remote_flow

    import mitogen.core

    with new_router() as router:
        loud, quiet = (connect_local(router, setting) for _ in range(2))
        warm_up(quiet)
        send_up(router, loud, 5, False)
        receiver = mitogen.core.Receiver(router)
        over = threading.Event()

        def consume():
            for _ in range(megabytes):
                receiver.get()
            over.set()

        thread = threading.Thread(target=consume, daemon=True)
        thread.start()
        args = (receiver.to_sender(), megabytes, MB, False)
        done = loud.call_async(remote_flow.pump, *args)
        took = []
        while not over.is_set():
            took.append(probe.timed(quiet.call, remote.noop)[0] * 1e3)
        thread.join(10)
        done.get().unpickle()
    return {"ms": statistics.median(took), "worst": max(took), "calls": len(took)}


def child_memory(setting):
    """Return MiB of a child above a bare Python: when ready, and with logging imported."""
    bare = probe.bare_memory(setting.python)
    with new_router() as router:
        context = connect_local(router, setting)
        time.sleep(SETTLE)
        (pid,) = probe.descendants()
        ready = probe.memory(pid)
        context.call(remote.import_logging)
        return {"bare": bare, "ready": ready - bare, "logging": probe.memory(pid) - bare}


def master_memory(setting, count):
    """Return MiB, descriptors per child and threads of a master with many children."""
    with new_router() as router:
        before = probe.descriptor_count()
        contexts = probe.run_threads(lambda _: connect_local(router, setting), count, 1)
        for context in contexts:
            context.call(remote.noop)
        return {
            "memory": probe.memory(),
            "descriptors": (probe.descriptor_count() - before) / count,
            "threads": probe.thread_count(),
        }


# ---- the codec, ours only


def facts():
    """Return about 100 KB of typical facts about a machine: nested, mostly short text."""
    devices = {
        "eth%d" % i: {
            "mtu": 1500,
            "active": i % 2 == 0,
            "addresses": [{"address": "10.0.%d.%d" % (i, j), "prefix": 24} for j in range(8)],
            "macaddress": "52:54:00:12:%02x:%02x" % (i // 256, i % 256),
            "features": {"tx_checksum_%d" % j: "on [fixed]" for j in range(10)},
            "speed": i * 0.5,
        }
        for i in range(120)
    }
    return {"interfaces": devices, "env": {"NAME_%d" % i: "value " * 5 for i in range(100)}}


def per_run(function, seconds):
    """Return the minimum seconds of a run, of as many as fit into the time; at least 3."""
    took, end = [], time.perf_counter() + seconds
    while len(took) < 3 or time.perf_counter() < end:
        took.append(probe.timed(function)[0])
    return min(took)


def codec(setting, seconds):
    """Return the times of encoding and decoding as multiples of C pickle's for the same value."""
    import pickle
    import random

    from mitogen.core import Kwargs, decode, encode

    generator = random.Random(1)
    args = ("mitogen.bench", None, "function", (1, "text", None), {"key": [1, 2, 3]})
    numbers = {}
    for name, value, repeat in (
        ("call", args, 100),
        ("facts", facts(), 1),
        ("floats", [generator.random() for _ in range(1000 * 1000)], 1),
        ("bytes", b"x" * MB, 10),
    ):
        sent = args[:4] + (Kwargs(args[4]),) if name == "call" else value

        def run_ours(sent=sent, repeat=repeat):
            for _ in range(repeat):
                decode(encode(sent))

        def run_pickle(value=value, repeat=repeat):
            for _ in range(repeat):
                pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))

        assert decode(encode(value)) == value
        numbers[name] = per_run(run_ours, seconds) / per_run(run_pickle, seconds)
    return numbers


FUNCTIONS = {
    function.__name__: function
    for function in [
        call, outstanding, cpu, connect, connect_many, script, import_time, link, count_bytes,
        bulk, files, fileservice, put_get, slow_reader, busy, codec, child_memory, master_memory,
    ]
}  # fmt: skip

if __name__ == "__main__":
    probe.main(FUNCTIONS, prepare)
