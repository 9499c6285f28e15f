"""
Use blocking calls from asyncio: each call waits in a thread of an executor, many at a time.

Any thread can use contexts and routers, so `loop.run_in_executor()` is enough to keep the event
loop free. (`new_ways.py` shows calls that are awaited without a thread for each.)

Run it:

    python3 examples/executor.py
    python3 examples/executor.py --contexts 10 --calls 1000
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import mitogen


def factorial_digits(number):
    """Return the number of decimal digits of `number!`."""
    product = 1
    for factor in range(2, number + 1):
        product *= factor
    return len(str(product))


async def survey(router, pool, contexts, calls):
    """Start contexts at the same time, then spread the calls over them; return the results."""
    loop = asyncio.get_running_loop()
    starting = [
        loop.run_in_executor(pool, partial(router.local, name="worker%d" % number))
        for number in range(contexts)
    ]
    workers = await asyncio.gather(*starting)
    calling = [
        loop.run_in_executor(pool, workers[number % contexts].call, factorial_digits, number)
        for number in range(calls)
    ]
    return await asyncio.gather(*calling)


async def count_ticks(stop):
    """Return the number of times the event loop ran this function, to show that it was free."""
    ticks = 0
    while not stop.is_set():
        ticks += 1
        await asyncio.sleep(0.001)
    return ticks


async def run(router, contexts, calls):
    stop = asyncio.Event()
    ticker = asyncio.ensure_future(count_ticks(stop))
    with ThreadPoolExecutor(max_workers=16) as pool:
        digits = await survey(router, pool, contexts, calls)
    stop.set()
    return digits, await ticker


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contexts", type=int, default=4, help="number of contexts (default 4)")
    parser.add_argument(
        "--calls", type=int, default=200, help="total number of calls (default 200)"
    )
    args = parser.parse_args()
    if args.contexts < 1 or args.calls < 1:
        parser.error("--contexts and --calls must be 1 or more")

    digits, ticks = asyncio.run(run(router, args.contexts, args.calls))
    print("%d calls in %d contexts" % (len(digits), args.contexts))
    print("the last one's result: %d! has %d digits" % (len(digits) - 1, digits[-1]))
    print("meanwhile the event loop was", "free" if ticks > 10 else "BLOCKED")
