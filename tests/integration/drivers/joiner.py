"""Join the tree that listens at argv[1], run the action argv[2] and print its result."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))

import mitogen
import mitogen.core
import mitogen.unix
from tests.integration.far import work


def identify(router, context, *ids):
    """Call the listener's children by id, and a child of this process."""
    for context_id in map(int, ids):
        print(router.context_by_id(context_id).call(work.identity)[0])
    print(router.local().call(work.identity)[2] == os.getpid())


def through(router, context, context_id):
    """Start a child of the listener's child."""
    via = router.context_by_id(int(context_id))
    print(router.local(via=via).call(work.identity)[2] == via.call(work.identity)[0])


def own_main():
    pass


def refused(router, context, context_id):
    try:
        router.context_by_id(int(context_id)).call(own_main)
    except TypeError as e:
        print(e)


def own_child_calls(router, context, context_id):
    """Let a child of this process call the listener's child."""
    victim = router.context_by_id(int(context_id))
    try:
        print(router.local().call(work.call_in, victim, "identity"))
    except mitogen.core.CallError as e:
        print(e)


def wait(router, context):
    """Wait for the end of the listener."""
    receiver = mitogen.core.Receiver(router, respondent=context)
    print("waiting", flush=True)
    try:
        receiver.get()
    except mitogen.core.ChannelError as e:
        print(e)


def main(path, action, *args):
    router, context = mitogen.unix.connect(path)
    globals()[action](router, context, *args)
    router.broker.shutdown()
    router.broker.join()


main(*sys.argv[1:])
