"""Listen (argv: serve PATH), or join and call a function of this same program (join PATH)."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))))

import mitogen.core
import mitogen.unix
import mitogen.utils


def where():
    return os.getpid()


@mitogen.core.takes_router
def listen(path, router):
    """Listen for joining processes, in a child."""
    mitogen.unix.Listener.build_stream(router, path)


def serve(router, path):
    child = router.local()
    child.call(listen, path)
    print(child.call(where), flush=True)
    sys.stdin.read()


def join(path):
    router, context = mitogen.unix.connect(path)
    print(context.call(where))
    router.broker.shutdown()
    router.broker.join()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        mitogen.utils.run_with_router(serve, sys.argv[2])
    else:
        join(sys.argv[2])
