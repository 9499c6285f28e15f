"""
Build a chain of contexts, each started by the previous one, and call functions at its far end.

`via=` works with every connection method, so the chain could also be ssh to a bastion, sudo there,
ssh from that account to another host, and a container on that host. A call is routed along the
chain; the intermediate contexts only forward it.

Run it:

    python3 examples/chain.py
    python3 examples/chain.py --depth 3 --calls 1000
    python3 examples/chain.py --calls 0              until ^C
"""

import argparse
import itertools
import time

import mitogen


def distance():
    """Return the number of contexts above the current one, including the program's own."""
    return len(mitogen.parent_ids)


def build_chain(router, depth):
    """Start `depth` contexts, each below the previous one; return all of them."""
    contexts = []
    for number in range(1, depth + 1):
        above = contexts[-1] if contexts else None
        contexts.append(router.local(via=above, name="hop%d" % number))
    return contexts


def round_trip(context):
    """Return the duration of one call in seconds."""
    start = time.perf_counter()
    context.call(distance)
    return time.perf_counter() - start


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=10, help="number of contexts (default 10)")
    parser.add_argument(
        "--calls", type=int, default=100, help="number of calls; 0: until ^C (default 100)"
    )
    args = parser.parse_args()
    if args.depth < 1 or args.calls < 0:
        parser.error("--depth must be 1 or more, --calls 0 or more")

    contexts = build_chain(router, args.depth)
    best = float("inf")
    try:
        for context in contexts:
            print("a context %d below the program" % context.call(distance), flush=True)
        for _ in range(args.calls) if args.calls else itertools.count():
            best = min(best, round_trip(contexts[-1]))
    except KeyboardInterrupt:
        pass  # the usual way to stop it
    print("best round trip to the bottom: %.3f ms" % (best * 1000))
