"""The main job, written as a user would; argv is the keyword arguments of ssh(), as JSON."""

import json
import os
import sys

from fleet import facts

import mitogen.utils

SECRET = "/etc/shadow"


def here(greeting, name=None):
    """Use a module of the package in a function of `__main__`."""
    return facts.text.line(
        greeting, name or "nobody", "from", "root" if not os.geteuid() else "user"
    )


def show(name, context):
    print(name, "|", context.call(facts.account))
    print(name, "|", context.call(here, "hello", name=name))
    print(name, "| late", context.call(facts.late))
    try:
        print(name, "| reads", context.call(facts.read, SECRET).count("\n") > 0)
    except PermissionError as error:
        print(name, "| PermissionError", SECRET in str(error), "in read" in str(error))


def main(router):
    user = router.ssh(**json.loads(sys.argv[1]))
    show("user", user)
    root = router.sudo(via=user)
    show("root", root)
    below = router.local(via=root)
    show("below", below)
    print("pids", len({context.call(os.getpid) for context in (user, root, below)}))


if __name__ == "__main__":
    mitogen.utils.log_to_file(level="WARNING")
    mitogen.utils.run_with_router(main)
