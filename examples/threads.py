"""
Share one router among ten threads: each starts a context, calls functions in it, and ends it.

Any number of threads can use a Router and its contexts at the same time.

Run it:

    python3 examples/threads.py
    python3 examples/threads.py --threads 20
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

import mitogen


def square(number):
    return number * number


def visit(router, number):
    """Start a context, use it, and end it; return its result and its process id."""
    context = router.local(name="thread%d" % number)
    try:
        return context.call(square, number), context.call(os.getpid)
    finally:
        context.shutdown(wait=True)


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=10, help="number of threads (default 10)")
    args = parser.parse_args()
    if args.threads < 1:
        parser.error("--threads must be 1 or more")

    numbers = range(1, args.threads + 1)
    with ThreadPoolExecutor(args.threads) as pool:
        visits = list(pool.map(lambda number: visit(router, number), numbers))

    for number, (result, _) in zip(numbers, visits):
        print("thread %d: %d squared is %d" % (number, number, result))
    print("%d processes, all of them ended" % len({pid for _, pid in visits}))
