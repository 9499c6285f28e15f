"""
Watch many workers at once: each has one receiver for its progress and one for its result.

Every worker counts the prime numbers in its own range and reports its progress after each tenth.
A Select waits on two other Selects: `progress`, whose receivers each deliver many messages, and
`results`, whose receivers each deliver one message and are then removed.

Run it:

    python3 examples/nested_selects.py
    python3 examples/nested_selects.py --workers 8 --size 10000
"""

import argparse

import mitogen
import mitogen.core
import mitogen.select


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def count_primes(start, size, status):
    """Worker: count primes from `start` on; send the percentage done to `status`."""
    count = 0
    for tenth in range(10):
        first = start + size * tenth // 10
        end = start + size * (tenth + 1) // 10
        count += sum(is_prime(number) for number in range(first, end))
        status.send((tenth + 1) * 10)
    return count


def start_worker(router, index, size, progress, results):
    """Start a worker, and add its receivers to both Selects."""
    name = "worker%d" % index
    context = router.local(name=name)

    status = mitogen.core.Receiver(router)
    status.worker = name  # programs may add attributes to a receiver
    progress.add(status)

    result = context.call_async(count_primes, index * size, size, status=status.to_sender())
    result.worker = name
    result.status = status
    results.add(result)


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=3, help="number of workers (default 3)")
    parser.add_argument(
        "--size", type=int, default=50000, help="numbers per worker (default 50000)"
    )
    args = parser.parse_args()
    if args.workers < 1 or args.size < 1:
        parser.error("--workers and --size must be 1 or more")

    progress = mitogen.select.Select(oneshot=False)
    results = mitogen.select.Select(oneshot=True)
    for index in range(args.workers):
        start_worker(router, index, args.size, progress, results)

    counts = {}
    both = mitogen.select.Select([progress, results], oneshot=False)
    while results:  # a Select is true while it has receivers to wait for
        message = both.get()
        source = message.receiver
        if hasattr(source, "status"):
            counts[source.worker] = message.unpickle()
            progress.remove(source.status)
        else:
            print("%s: %d %% done" % (source.worker, message.unpickle()), flush=True)

    for name in sorted(counts):
        print("%s found %d primes" % (name, counts[name]))
    print("together: %d below %d" % (sum(counts.values()), args.workers * args.size))
