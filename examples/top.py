"""
Monitor hosts: every host sends samples continuously, and the program prints the latest ones.

Each context runs one endless call, which sends to its own receiver. One Select waits for all
receivers. Press ^C to stop the program; the endless calls end with it.

Run it:

    python3 examples/top.py                          three contexts on this machine, until ^C
    python3 examples/top.py --count 3                the same, for three tables
    python3 examples/top.py --ssh web1 --ssh web2    hosts that ssh can log in to
"""

import argparse
import os
import sys
import time

import mitogen
import mitogen.core
import mitogen.select


def send_samples(samples, interval):
    """Host: send the system load and this process's CPU time, endlessly."""
    while True:
        used = os.times()
        samples.send({"load": os.getloadavg(), "cpu": used.user + used.system})
        time.sleep(interval)


def watch(router, context, interval):
    """Start sampling in a context; return the receiver for its samples."""
    # With `respondent`, the wait for messages ends when the context is lost.
    receiver = mitogen.core.Receiver(router, respondent=context)
    receiver.host = context.name
    context.call_no_reply(send_samples, receiver.to_sender(), interval)
    return receiver


def tables(receivers):
    """Yield {host: sample} whenever every host has sent a new sample."""
    latest = {}
    with mitogen.select.Select(receivers, oneshot=False) as select:
        for message in select:
            latest[message.receiver.host] = message.unpickle()
            if len(latest) == len(receivers):
                yield latest
                latest = {}


def show(table):
    print("%-12s %8s %8s %8s %8s" % ("HOST", "LOAD 1", "LOAD 5", "LOAD 15", "CPU s"))
    for host in sorted(table):
        load = "%8.2f %8.2f %8.2f" % tuple(table[host]["load"])
        print("%-12s %s %8.2f" % (host, load, table[host]["cpu"]))
    print(flush=True)


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ssh", metavar="HOST", action="append", help="host to watch; can be repeated"
    )
    parser.add_argument(
        "--count", type=int, default=0, help="number of tables to print (default: endless)"
    )
    parser.add_argument(
        "--interval", type=float, default=0.5, help="seconds between samples (default 0.5)"
    )
    args = parser.parse_args()
    if args.count < 0 or args.interval < 0:
        parser.error("--count and --interval must be 0 or more")

    try:
        if args.ssh:
            contexts = [router.ssh(hostname=host, name=host) for host in args.ssh]
        else:
            contexts = [router.local(name="local%d" % number) for number in (1, 2, 3)]
        receivers = [watch(router, context, args.interval) for context in contexts]
        for number, table in enumerate(tables(receivers), 1):
            show(table)
            if number == args.count:
                break
    except KeyboardInterrupt:
        pass  # the usual way to end it
    except mitogen.core.ChannelError:
        sys.exit("a host was lost")
