"""
Features that mitogen 0.3 does not have: many connections at once, futures, files, asyncio.

Run it:

    python3 examples/new_ways.py
"""

import argparse
import asyncio
import concurrent.futures
import os
import tempfile
import time

import mitogen
import mitogen.aio


def square(number):
    return number * number


def count_down(start, sender):
    """Child: send the numbers from `start` down to 1, then close the sender."""
    for number in range(start, 0, -1):
        sender.send(number)
    sender.close()


def many_connections(router):
    """Start many connections at once; handle each as it succeeds or fails; return the contexts."""
    specs = [("local", {"name": "worker%d" % number}) for number in range(4)]
    specs.append(("local", {"name": "broken", "python_path": "/no/such/python"}))
    contexts = []
    for _, context, error in router.connect_many(specs):
        if error is None:
            contexts.append(context)
    print("connect_many: %d of %d are there" % (len(contexts), len(specs)))
    return contexts


def futures(contexts):
    """Collect results in any order, and cancel a call."""
    pending = [context.submit(square, n) for n, context in enumerate(contexts, 1)]
    results = [future.result() for future in concurrent.futures.as_completed(pending)]
    print("submit:", sorted(results))

    endless = contexts[0].submit(time.sleep, 3600)
    endless.cancel()
    print("cancel: the context is free again,", contexts[0].call(square, 10))


def files(context):
    """Send a directory to a context and fetch it back."""
    with tempfile.TemporaryDirectory() as directory:
        original, there, back = (os.path.join(directory, name) for name in ("a", "b", "c"))
        os.mkdir(original)
        with open(os.path.join(original, "greeting"), "w") as fp:
            fp.write("hello")
        context.put(original, there)
        context.get(there, back)
        with open(os.path.join(back, "greeting")) as fp:
            print("put and get: %s, in %s" % (fp.read(), os.listdir(back)))


async def awaiting(router):
    """Use the same tree from asyncio: nothing here blocks, and no call needs a thread."""
    connecting = [router.local(name="awaited%d" % number) for number in range(3)]
    contexts = await asyncio.gather(*connecting)
    print("aio:", await asyncio.gather(*(c.call(square, n) for n, c in enumerate(contexts))))

    try:
        await asyncio.wait_for(contexts[0].call(time.sleep, 3600), timeout=0.1)
    except asyncio.TimeoutError:
        print("aio: a timeout interrupts the call,", await contexts[0].call(square, 10))

    async with mitogen.aio.Receiver(router) as receiver:
        counting = asyncio.ensure_future(contexts[1].call(count_down, 3, receiver.to_sender()))
        print("aio:", [message.unpickle() async for message in receiver])
        await counting


async def use_asyncio(router):
    async with mitogen.aio.Router(router) as aio_router:
        await awaiting(aio_router)


@mitogen.main()
def main(router):
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

    contexts = many_connections(router)
    futures(contexts)
    files(contexts[0])
    asyncio.run(use_asyncio(router))
