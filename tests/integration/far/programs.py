"""Functions that test_process.py calls in other contexts."""

import os

from mitogen.core import takes_router
from mitogen.programs.server import guard_of


def leader_of(pid):
    """Return (process group, session) of a process."""
    return os.getpgid(pid), os.getsid(pid)


@takes_router
def known_programs(router):
    """Return the number of programs this context runs for others, and of its mailboxes."""
    return len(guard_of(router).programs), len(router.handlers)


def kill_yourself(number):
    os.kill(os.getpid(), number)


def run_there(context, args, data):
    """Run a program in another context; return (status, output)."""
    done = context.run(args, input=data)
    return done.returncode, done.stdout


def run_tool(context, args):
    """Run a program that uses ssh; return its status."""
    from mitogen import fakessh

    return fakessh.run(context, args)
