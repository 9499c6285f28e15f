"""A master that makes calls on request, so that its system calls can be counted.

It prints its pid and its child's; then, for each number it reads, it makes that many calls and
prints, as JSON, the voluntary thread switches in both processes.
"""

import json
import os
import sys

import mitogen.master
from tests.integration.far import work


def switches(pid):
    """Return the number of times the threads of *pid* have gone to sleep."""
    total = 0
    for name in os.listdir("/proc/{}/task".format(pid)):
        with open("/proc/{}/task/{}/status".format(pid, name)) as fp:
            total += int(fp.read().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with mitogen.master.Router() as router:
        context = router.local()
        pids = [os.getpid(), context.call(work.identity)[0]]
        for _ in range(5):
            context.call(work.noop)
        print(json.dumps(pids), flush=True)
        for line in sys.stdin:
            before = sum(map(switches, pids))
            for _ in range(int(line)):
                context.call(work.noop)
            print(json.dumps(sum(map(switches, pids)) - before), flush=True)
