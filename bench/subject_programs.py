"""Measure programs that use ssh: over a context, and over OpenSSH on the same machine.

Rules: as in subject_mitogen.py, but there is no peer: no published mitogen has a working fakessh.
So a function runs both in turn and returns their times and the ratio. A round is ssh, then ours,
with the same arguments to the same program.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

import probe
from subject_mitogen import chain_of, make_file, new_router, prepare

MB = 1000 * 1000


def tool(args, **kwargs):
    """Run a program; return its duration in seconds."""
    took, _ = probe.timed(subprocess.run, args, check=True, stdout=subprocess.DEVNULL, **kwargs)
    return took


def contexts_at(router, setting, depths):
    """Return {depth: Context}; 0 is this process itself."""
    chain = [router.myself(), *chain_of(router, setting, max(depths))]
    return {depth: chain[depth] for depth in depths}


def rsync_times(setting, source, depths, times):
    """Return {"ssh": median seconds, "hops_0": ..., "ratio_0": ...} of one rsync."""
    import mitogen.fakessh

    samples = {}

    def note(key, function, *args):
        target = tempfile.mkdtemp(dir=setting.scratch)
        try:
            took = function("rsync", "-a", source, f"{setting.host}:{target}/", *args)
            samples.setdefault(key, []).append(took)
        finally:
            shutil.rmtree(target)

    def over_ssh(program, *args):
        shell = f"ssh -F {setting.ssh_config}"
        return tool([program, "-e", shell, *args])

    with new_router() as router:
        contexts = contexts_at(router, setting, depths)
        for number in range(times + 1):
            note("ssh", over_ssh)
            for depth, context in contexts.items():
                with mitogen.fakessh.session(context) as env:
                    note(f"hops_{depth}", lambda *args, env=env: tool(args, env=env))
            if number == 0:
                # The first run of each is extra: it fills the file cache and transfers modules.
                samples.clear()
    numbers = {key: statistics.median(values) for key, values in samples.items()}
    for depth in depths:
        numbers[f"ratio_{depth}"] = numbers[f"hops_{depth}"] / numbers["ssh"]
    return numbers


def rsync_large(setting, megabytes, depths, times):
    """Return seconds of rsync -a for one file that can't be compressed."""
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        make_file(os.path.join(directory, "file"), megabytes)
        return rsync_times(setting, directory, depths, times)


def rsync_small(setting, count, size, depths, times):
    """Return seconds of rsync -a for a tree of small files, 100 in a directory."""
    with tempfile.TemporaryDirectory(dir=setting.scratch) as directory:
        for number in range(count):
            path = pathlib.Path(directory, str(number // 100), str(number))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(os.urandom(size))
        return rsync_times(setting, directory, depths, times)


def start(setting, count):
    """Return milliseconds of `ssh x true`: OpenSSH with a login, ours through an open context."""
    import mitogen.fakessh

    samples = {"ssh": [], "ours": [], "deep": []}
    with new_router() as router:
        contexts = contexts_at(router, setting, (1, 3))
        sessions = {"ours": contexts[1], "deep": contexts[3]}
        for number in range(count + 1):
            took = tool(["ssh", "-F", setting.ssh_config, setting.host, "true"])
            samples["ssh"].append(took)
            for key, context in sessions.items():
                with mitogen.fakessh.session(context) as env:
                    samples[key].append(tool(["ssh", setting.host, "true"], env=env))
            if number == 0:
                for values in samples.values():
                    values.clear()
    numbers = {key: statistics.median(values) * 1e3 for key, values in samples.items()}
    return {**numbers, "ratio": numbers["ours"] / numbers["ssh"]}


def busy_call(setting, megabytes):
    """Return milliseconds of a call to a context while a program's output passes through it."""
    samples = []
    with new_router() as router:
        context = contexts_at(router, setting, (1,))[1]
        context.call(os.getpid)
        reader, writer = os.pipe()
        with subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.DEVNULL):
            os.close(reader)
            program = ["head", "-c", str(megabytes * MB), "/dev/zero"]
            popen = context.popen(program, stdout=writer)
            os.close(writer)
            over = threading.Event()
            popen.when_done(lambda popen: over.set())
            began = time.perf_counter()
            while not over.is_set():
                samples.append(probe.timed(context.call, os.getpid)[0])
            took = time.perf_counter() - began
            assert popen.wait() == 0
    samples.sort()
    return {
        "median": statistics.median(samples) * 1e3,
        "p99": samples[int(len(samples) * 0.99)] * 1e3,
        "worst": samples[-1] * 1e3,
        "rate": megabytes / took,
    }


FUNCTIONS = {
    function.__name__: function for function in [rsync_large, rsync_small, start, busy_call]
}

if __name__ == "__main__":
    probe.main(FUNCTIONS, prepare)
