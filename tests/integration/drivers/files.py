"""A master three hops above a context: sends or fetches a file and measures memory.

argv: "service", "put" or "get"; MB; directory. Prints JSON: the maximum growth of each process in
bytes, seconds, and whether the content arrived unchanged.
"""

import json
import os
import sys
import time

import mitogen.master
import mitogen.service
from tests.integration.drivers.flow import reset_peak, status
from tests.integration.far import files, work


def make(path, megabytes):
    with open(path, "wb") as fp:
        for _ in range(megabytes):
            fp.write(os.urandom(1000000))


def main(router, way, megabytes, directory):
    source, target = os.path.join(directory, "source"), os.path.join(directory, "target")
    warm = os.path.join(directory, "warm")
    make(source, megabytes)
    make(warm, 10)
    contexts = [router.local()]
    for _ in range(2):
        contexts.append(router.local(via=contexts[-1]))
    far = contexts[-1]
    pids = [os.getpid()] + [context.call(work.identity)[0] for context in contexts]
    service = mitogen.service.FileService(router)
    service.register_prefix(directory)
    pool = mitogen.service.Pool(router, [service])
    arrived = []

    def transfer(path):
        if way == "service":
            arrived[:] = far.call(files.fetch, path)[2:]
        else:
            getattr(far, way)(path, target)

    # The first file is larger than a window: afterwards buffers are allocated and modules loaded.
    transfer(warm)
    wanted = files.digest(source)
    base = {pid: reset_peak(pid) for pid in pids}
    begin = time.perf_counter()
    transfer(source)
    took = time.perf_counter() - begin
    grown = [status(pid, "VmHWM") - base[pid] for pid in pids]
    pool.stop()
    right = tuple(arrived) == wanted if way == "service" else files.digest(target) == wanted
    return {"grown": grown, "seconds": took, "right": right}


if __name__ == "__main__":
    with mitogen.master.Router() as router:
        print(json.dumps(main(router, sys.argv[1], int(sys.argv[2]), sys.argv[3])))
