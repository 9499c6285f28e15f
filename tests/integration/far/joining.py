"""Functions that make a context listen or join."""

import mitogen.core
import mitogen.unix
from tests.integration.far import work


@mitogen.core.takes_router
def listen(path, router):
    mitogen.unix.Listener.build_stream(router, path)


def join_and_identify(path):
    """Join a tree, ask the listener for its pid, and leave."""
    router, context = mitogen.unix.connect(path)
    try:
        return context.call(work.identity)[0]
    finally:
        router.broker.shutdown()
        router.broker.join()
