#!/usr/bin/python
"""A module that returns its surroundings: directory, umask, environment, signals, limits."""

import locale
import os
import resource
import signal
import stat
import sys
import time

from ansible.module_utils.basic import AnsibleModule

CALLER = {
    "umask": os.umask(0o22),
    "cwd": os.getcwd(),
    "argc": len(sys.argv),
    "name": __name__,
}
os.umask(CALLER["umask"])

SIGNALS = ["SIGPIPE", "SIGINT", "SIGTERM", "SIGCHLD", "SIGHUP", "SIGUSR1", "SIGALRM"]


def kind(fd):
    mode = os.fstat(fd).st_mode
    return {
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFREG: "file",
        stat.S_IFCHR: "device",
    }.get(stat.S_IFMT(mode), "other")


def handler(number):
    found = signal.getsignal(number)
    return str(getattr(found, "name", found if isinstance(found, int) else "function"))


def main():
    module = AnsibleModule(argument_spec={"names": {"type": "list", "elements": "str"}})
    names = module.params["names"]
    environment = {
        name: value for name, value in os.environ.items() if names is None or name in names
    }
    module.exit_json(
        changed=False,
        caller=CALLER,
        user=[os.getuid(), os.geteuid(), os.getgid(), sorted(os.getgroups())],
        environment=environment,
        tty=[os.isatty(fd) for fd in (0, 1, 2)],
        stdout=kind(1),
        stdin_left=len(os.read(0, 100)) if kind(0) != "device" or names else 0,
        signals={name: handler(getattr(signal, name)) for name in SIGNALS},
        blocked=sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        limits=[
            resource.getrlimit(resource.RLIMIT_NOFILE),
            resource.getrlimit(resource.RLIMIT_CORE),
        ],
        nice=os.nice(0),
        executable=sys.executable,
        version=list(sys.version_info),
        prefix=[sys.prefix, sys.base_prefix],
        encoding=[sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.stdout.encoding],
        locale=locale.setlocale(locale.LC_ALL),
        preferred=locale.getpreferredencoding(False),
        zone=[time.timezone, time.tzname],
        flags=str(sys.flags),
        main=sys.modules["__main__"].__name__,
        threads=len(os.listdir("/proc/self/task")),
        leads=os.getpid() == os.getpgrp(),
        recursion=sys.getrecursionlimit(),
        bytecode=sys.dont_write_bytecode,
        hooks=[sys.excepthook is sys.__excepthook__, sys.gettrace() is None],
    )


if __name__ == "__main__":
    main()
