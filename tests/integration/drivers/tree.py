"""A master to be killed: builds a tree, starts work in every context, reports it and waits.

argv: JSON list of [method, keyword arguments], each connected through the previous one. Prints the
pids of all contexts and of a program started by each, as JSON, then waits for a call that never
ends.
"""

import json
import sys

import mitogen.core
import mitogen.master
from tests.integration.far import work


def build(router, steps):
    contexts = []
    for method, kwargs in steps:
        via = contexts[-1] if contexts else None
        contexts.append(router.connect(method, via=via, **kwargs))
    return contexts


if __name__ == "__main__":
    with mitogen.master.Router() as router:
        contexts = build(router, json.loads(sys.argv[1]))
        pids = [context.call(work.identity)[0] for context in contexts]
        pids += [context.call(work.sleeper) for context in contexts]
        started = mitogen.core.Receiver(router)
        calls = [context.call_async(work.hang, started.to_sender()) for context in contexts]
        for _ in contexts:
            started.get()
        print(json.dumps(pids), flush=True)
        calls[-1].get()
