"""Measure execnet's corresponding operations: an echo over a channel stands for a call.

Rules: as in subject_mitogen.py.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time

import probe

MB = 1000 * 1000
ECHO = "for item in channel: channel.send(item)"
PID = "import os; channel.send(os.getpid())"


def prepare(task):
    """Put the measured library first on sys.path."""
    sys.path.insert(0, task.library)
    import execnet

    assert execnet.__file__.startswith(task.library), execnet.__file__


@contextlib.contextmanager
def new_group():
    """Yield a group of gateways; end them all."""
    import execnet

    group = execnet.Group()
    try:
        yield group
    finally:
        group.terminate(timeout=2.0)


def connect_local(group, setting, more=""):
    return group.makegateway("popen//python={}{}".format(setting.python, more))


def connect_ssh(group, setting, config=None):
    config = config or setting.ssh_config
    spec = "ssh={}//python={}//ssh_config={}".format(setting.host, setting.python, config)
    return group.makegateway(spec)


def connect_hops(group, setting):
    gateway = connect_local(group, setting)
    for _ in range(2):
        gateway = connect_local(group, setting, "//via=" + gateway.id)
    return gateway


WAYS = {"local": connect_local, "ssh": connect_ssh, "hops": connect_hops}


def echo(channel):
    channel.send(None)
    channel.receive()


def call(setting, where, count):
    """Return microseconds per echo: the median of ten batches."""
    with new_group() as group:
        channel = WAYS[where](group, setting).remote_exec(ECHO)
        for _ in range(200):
            echo(channel)
        batches = []
        for _ in range(10):
            start = time.perf_counter()
            for _ in range(count // 10):
                echo(channel)
            batches.append((time.perf_counter() - start) / (count // 10))
        return {"us": statistics.median(batches) * 1e6}


def pipeline(channels, count):
    for index in range(count):
        channels[index % len(channels)].send(None)
    for index in range(count):
        channels[index % len(channels)].receive()


def outstanding(setting, children, count, times):
    """Return echoes per second with *count* outstanding."""
    with new_group() as group:
        channels = [connect_local(group, setting).remote_exec(ECHO) for _ in range(children)]
        pipeline(channels, count)
        seconds = [probe.timed(pipeline, channels, count)[0] for _ in range(times)]
        return {"rate": count / statistics.median(seconds)}


def cpu(setting, count):
    """Return CPU seconds of all processes per 10,000 echoes."""
    with new_group() as group:
        channel = connect_local(group, setting).remote_exec(ECHO)
        pipeline([channel], 1000)
        before = probe.cpu_seconds()
        for _ in range(count):
            echo(channel)
        between = probe.cpu_seconds()
        for _ in range(count // 1000):
            pipeline([channel], 1000)
        after = probe.cpu_seconds()
    share = 10000.0 / count
    return {"single": (between - before) * share, "pipelined": (after - between) * share}


def connect(setting, where, count):
    """Return milliseconds until a gateway's first output; execnet's own connect waits less."""
    seconds, plain = [], []
    with new_group() as group:
        for _ in range(count + 1):
            start = time.perf_counter()
            gateway = WAYS[where](group, setting)
            gateway.remote_exec(PID).receive()
            seconds.append((time.perf_counter() - start) * 1e3)
            group.terminate(timeout=2.0)
            if where == "ssh":
                argv = setting.ssh_command(setting.python + " -c pass")
                took, _ = probe.timed(subprocess.run, argv, check=True, stdin=subprocess.DEVNULL)
                plain.append(took * 1e3)
    numbers = {"first": seconds[0], "ms": statistics.median(seconds[1:])}
    if plain:
        numbers["plain"] = statistics.median(plain)
        numbers["over"] = numbers["ms"] - numbers["plain"]
    return numbers


def connect_many(setting, count, threads):
    """Return seconds until the first output of each gateway."""

    def one(index):
        gateway = connect_local(group, setting, "//id=many{}".format(index))
        return gateway.remote_exec(PID).receive()

    with new_group() as group:
        took, pids = probe.timed(probe.run_threads, one, count, threads)
        assert len(set(pids)) == count
        return {"s": took}


def script(setting, count):
    """Return milliseconds of a complete program."""
    argv = [setting.python, setting.script("execnet"), sys.path[0]]
    return {"ms": probe.script_times(argv, count) * 1e3}


def link(setting, delays, repeat):
    """Return round trips of connect + first answer over `ssh host true`."""
    import subject_mitogen

    times, flights = {}, {}
    connect_and_call(setting, None)  # leave out the extra cost of the first one
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        for number, delay in enumerate(list(delays) * repeat + [delays[0]] * (2 * repeat - 2)):
            for name in ("true", "connect"):
                counts = os.path.join(directory, "{}{}".format(name, number))
                config = setting.config_for_link(delay, counts)
                step = {"true": run_true, "connect": connect_and_call}[name]
                seconds = step(setting, config)
                times.setdefault(name, {}).setdefault(delay / 1e3, []).append(seconds)
                flights.setdefault(name, []).append(probe.read_counts(counts)["up_flights"])
    return subject_mitogen.link_numbers(times, flights, delays[0] / 1e3)


def run_true(setting, config):
    argv = setting.ssh_command("true", config=config)
    return probe.timed(subprocess.run, argv, check=True, stdin=subprocess.DEVNULL, timeout=30)[0]


def connect_and_call(setting, config):
    with new_group() as group:
        start = time.perf_counter()
        connect_ssh(group, setting, config).remote_exec(PID).receive(30)
        return time.perf_counter() - start


def bulk(setting, count):
    """Return MB/s of 1 MB messages both ways."""
    drain = "n = channel.receive()\nfor i in range(n): channel.receive()\nchannel.send(n)"
    pump = "n, size = channel.receive()\nfor i in range(n): channel.send(b'x' * size)"
    data = b"x" * MB
    with new_group() as group:
        gateway = connect_local(group, setting)
        channel = gateway.remote_exec(drain)
        start = time.perf_counter()
        channel.send(count)
        for _ in range(count):
            channel.send(data)
        channel.receive()
        down = time.perf_counter() - start
        channel = gateway.remote_exec(pump)
        start = time.perf_counter()
        channel.send((count, MB))
        for _ in range(count):
            channel.receive()
        return {"down": count / down, "up": count / (time.perf_counter() - start)}


def child_memory(setting):
    """Return MiB of a gateway's process above a bare Python."""
    bare = probe.bare_memory(setting.python)
    with new_group() as group:
        pid = connect_local(group, setting).remote_exec(PID).receive()
        ready = probe.memory(pid) - bare
        gateway = connect_local(group, setting)
        code = "import logging, threading, os; channel.send(os.getpid())"
        pid = gateway.remote_exec(code).receive()
        return {"bare": bare, "ready": ready, "logging": probe.memory(pid) - bare}


FUNCTIONS = {
    function.__name__: function
    for function in [
        call, outstanding, cpu, connect, connect_many, script, link, bulk, child_memory,
    ]
}  # fmt: skip

if __name__ == "__main__":
    probe.main(FUNCTIONS, prepare)
