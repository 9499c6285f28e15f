#!/usr/bin/python
"""A module that changes process state that must not leak to the next module; `look` returns it."""

import builtins
import json
import os
import signal
import socket
import sys
import threading

from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule

MARK = "BED_POLLUTED"


def pollute():
    os.environ[MARK] = "yes"
    os.umask(0o077)
    os.chdir("/")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path.insert(0, "/polluted")
    sys.modules["bed_polluted"] = json
    builtins.bed_polluted = True
    json.bed_polluted = True
    basic.bed_polluted = True
    basic._ANSIBLE_ARGS_BED = b"x"
    socket.setdefaulttimeout(0.1)
    sys.setrecursionlimit(5000)
    threading.Thread(target=lambda: None).start()


def look():
    return {
        "environment": MARK in os.environ,
        "umask": os.umask(0o22) == 0o077,
        "cwd": os.getcwd() == "/",
        "signal": signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
        "path": "/polluted" in sys.path,
        "module": "bed_polluted" in sys.modules,
        "builtins": hasattr(builtins, "bed_polluted"),
        "json": hasattr(json, "bed_polluted"),
        "basic": hasattr(basic, "bed_polluted"),
        "socket": socket.getdefaulttimeout() is not None,
        "recursion": sys.getrecursionlimit() == 5000,
    }


def main():
    module = AnsibleModule(argument_spec={"look": {"type": "bool", "default": True}})
    found = look()
    if not module.params["look"]:
        pollute()
    module.exit_json(changed=False, found=found)


if __name__ == "__main__":
    main()
