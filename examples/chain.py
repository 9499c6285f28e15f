"""
A chain of contexts, each started by the one before it, and calls at its far end.

`via=` works with every connection method, so the chain could as well be ssh to a bastion, sudo
there, ssh on from that account, and a container on the host behind. A call is routed along the
chain; the contexts between only pass it on.

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
    """Return how many contexts are above the one this runs in; the program's own is one."""
    return len(mitogen.parent_ids)


def build_chain(router, depth):
    """Start `depth` contexts, each below the one before; return all of them."""
    contexts = []
    for number in range(1, depth + 1):
        above = contexts[-1] if contexts else None
        contexts.append(router.local(via=above, name="hop%d" % number))
    return contexts


def round_trip(context):
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    context.call(distance)
    return time.perf_counter() - start


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=10, help="contexts (default 10)")
    parser.add_argument("--calls", type=int, default=100, help="0: until ^C (default 100)")
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
        pass  # enough
    print("best round trip to the bottom: %.3f ms" % (best * 1000))
