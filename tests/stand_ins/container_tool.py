#!/usr/bin/python3 -SE
"""A stand-in for docker, podman, kubectl and the like.

It logs its arguments and runs the given command on this machine. Its own name and the container's
name determine its other behavior. STAND_IN_LOG is the path of the log: one line of JSON per call.
"""

import json
import os
import subprocess
import sys

NO_PROGRAM = 'OCI runtime exec failed: exec: "sh": executable file not found in $PATH: unknown'
# Tool -> (exit status, error message) for a missing container.
NONE = {
    "docker": (1, "Error response from daemon: No such container: nix"),
    "podman": (125, 'Error: no container with name or ID "nix" found: no such container'),
    "buildah": (125, 'Error: reading build container "nix": container not known'),
    "kubectl": (1, 'Error from server (NotFound): pods "nix" not found'),
    "lxc-attach": (1, "lxc-attach: nix: attach.c: lxc_attach: 993 Failed to get init pid"),
    "lxc": (1, "Error: Instance not found"),
    "incus": (1, "Error: Instance not found"),
    "jexec": (1, 'jexec: jail "nix" not found'),
}


def main():
    tool, args = os.path.basename(sys.argv[0]), sys.argv[1:]
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(json.dumps([tool, *args]) + "\n")
    # sh -c SEARCH STAGE NAME, or python -c STAGE NAME
    command = args[-5:] if args[-5] == "sh" else args[-4:]
    if "nix" in args:
        status, message = NONE[tool]
        print(message, file=sys.stderr)
        sys.exit(status)
    if "distroless" in args:
        print(NO_PROGRAM, file=sys.stderr)
        sys.exit(1 if tool in ("buildah", "kubectl") else 127)
    if "hang" in args:
        os.execvp("sleep", ["sleep", "600"])
    if "chatty" in args:
        sys.exit(chat(command))
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print("OCI runtime exec failed: exec: %s: no such file" % command[0], file=sys.stderr)
        sys.exit(127)


def chat(command):
    """Run the command while printing warnings, which must not get between its frames."""
    child = subprocess.Popen(command)
    while True:
        print("W0101 00:00:00.000000 warning: MITO:HELLO, I am deprecated", file=sys.stderr)
        try:
            return child.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            pass


main()
