"""
A child that stays when its program ends, and can be talked to later.

`start` has a child offer a service, listen on a UNIX socket, and leave its tree by
`econtext.detach()`. `status` and `stop` are programs of their own: each joins the child by that
socket and calls the service. Only processes of the same account may join.

Run it:

    python3 examples/daemon.py start
    python3 examples/daemon.py status
    python3 examples/daemon.py stop
"""

import argparse
import os
import sys
import tempfile
import time

import mitogen.core
import mitogen.service
import mitogen.unix
import mitogen.utils


class Daemon(mitogen.service.Service):
    """What the daemon does for those that join; here it only counts their requests."""

    def __init__(self, router):
        super().__init__(router)
        self.requests = 0

    # Whoever joins has the daemon's own authority, as a parent has.
    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def status(self):
        """Return how many requests there were, and the process id."""
        self.requests += 1
        return self.requests, os.getpid()

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def stop(self):
        """End the daemon; its socket is removed."""
        self.router.broker.shutdown()


@mitogen.core.takes_econtext
def serve(path, econtext):
    """Child: offer the service to whoever joins at `path`, and go on without a parent."""
    router = econtext.router
    mitogen.service.Pool(router, services=[Daemon(router)], size=1)
    mitogen.unix.Listener.build_stream(router, path=path)
    econtext.detach()


def start(router, path):
    try:
        router.local(name="daemon").call(serve, path)
    except mitogen.core.ChannelError:
        pass  # no answer can come: the child is not in this tree any more
    print("started")


def status(daemon, path):
    count, pid = daemon.call_service(Daemon, "status")
    print("process %d is running; requests: %d" % (pid, count))


def stop(daemon, path):
    try:
        daemon.call_service(Daemon, "stop")
    except mitogen.core.ChannelError:
        pass  # it was gone before its answer was
    while not mitogen.unix.is_path_dead(path):
        time.sleep(0.01)
    print("stopped")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["start", "status", "stop"])
    default = os.path.join(tempfile.gettempdir(), "mitogen-daemon-%d" % os.getuid())
    parser.add_argument("--socket", metavar="PATH", default=default, help="(default %(default)s)")
    args = parser.parse_args()

    if args.action == "start":
        if not mitogen.unix.is_path_dead(args.socket):
            sys.exit("it is running already")
        mitogen.utils.run_with_router(start, args.socket)
        return

    try:
        router, daemon = mitogen.unix.connect(args.socket)
    except mitogen.unix.ConnectError as error:
        sys.exit(str(error))
    try:
        {"status": status, "stop": stop}[args.action](daemon, args.socket)
    finally:
        router.broker.shutdown()
        router.broker.join()


if __name__ == "__main__":
    main()
