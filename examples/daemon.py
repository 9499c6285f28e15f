"""
Start a child that keeps running when its program ends, and connect to it later.

`start` makes a child offer a service, listen on a UNIX socket, and leave its tree with
`econtext.detach()`. `status` and `stop` are separate programs: each joins the child through that
socket and calls the service. Only processes of the same account can join.

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
    """The daemon's service for joined programs; it only counts their requests."""

    def __init__(self, router):
        super().__init__(router)
        self.requests = 0

    # A joined process has the daemon's own authority, like a parent.
    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def status(self):
        """Return the number of requests so far, and the process id."""
        self.requests += 1
        return self.requests, os.getpid()

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def stop(self):
        """End the daemon; its socket is removed."""
        self.router.broker.shutdown()


@mitogen.core.takes_econtext
def serve(path, econtext):
    """Child: offer the service to processes that join at `path`, and continue without a parent."""
    router = econtext.router
    mitogen.service.Pool(router, services=[Daemon(router)], size=1)
    mitogen.unix.Listener.build_stream(router, path=path)
    econtext.detach()


def start(router, path):
    try:
        router.local(name="daemon").call(serve, path)
    except mitogen.core.ChannelError:
        pass  # no answer can arrive: the child has left this tree
    print("started")


def status(daemon, path):
    count, pid = daemon.call_service(Daemon, "status")
    print("process %d is running; requests: %d" % (pid, count))


def stop(daemon, path):
    try:
        daemon.call_service(Daemon, "stop")
    except mitogen.core.ChannelError:
        pass  # the daemon ended before its answer was sent
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
