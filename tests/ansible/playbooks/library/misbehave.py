#!/usr/bin/python
"""A module that misbehaves in the manner given by `how`."""

import json
import os
import signal
import sys
import time

from ansible.module_utils.basic import AnsibleModule


class Unusual(Exception):
    pass


def fail_inside():
    raise Unusual("a module that raises: \u00fc")


HOW = {
    "raise": fail_inside,
    "key error": lambda: {}["missing"],
    "silent": lambda: sys.exit(0),
    "silent error": lambda: sys.exit(3),
    "text": lambda: print("this is no JSON"),
    "sys.exit text": lambda: sys.exit("a text for stderr"),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "_exit": lambda: os._exit(7),
    "list": lambda: print(json.dumps([1, 2, 3])),
    "half": lambda: print('{"changed": false, "half'),
    "stderr": lambda: sys.stderr.write("only on stderr\n") and None,
    "sleep": lambda: time.sleep(60),
    "base": lambda: (_ for _ in ()).throw(KeyboardInterrupt()),
    "null": lambda: print("null"),
    "recursion": lambda: HOW["recursion"](),
}


def around(module, how):
    """Print text before, after or beside a correct result."""
    result = json.dumps({"changed": True, "how": how, "invocation": {}})
    if how == "before":
        print("a message of some library\n" + result)
    elif how == "after":
        print(result + "\nand more")
    elif how == "both streams":
        sys.stderr.write("a line for stderr\n")
        print(result)
    elif how == "status":
        print(result)
        sys.exit(5)
    elif how == "failed status":
        print(json.dumps({"failed": True, "msg": "failed with a status"}))
        sys.exit(1)
    elif how == "rc":
        module.exit_json(changed=False, rc=9, stdout="out\nlines\n", stderr="err")
    elif how == "fail_json":
        module.fail_json(msg="failed as it should", extra={"more": [1, "two"]}, rc=4)
    elif how == "warn":
        module.warn("a warning of the module")
        module.deprecate("old ways", version="9.9", collection_name="bed.things")
        module.exit_json(changed=False)
    elif how == "twice":
        print(result + "\n" + result)
    elif how == "empty":
        print("{}")
    elif how == "nothing":
        module.exit_json()


def main():
    module = AnsibleModule(argument_spec={"how": {"required": True}})
    how = module.params["how"]
    if how in HOW:
        HOW[how]()
    else:
        around(module, how)


if __name__ == "__main__":
    main()
