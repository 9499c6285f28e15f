#!/usr/bin/python
"""A module that starts a program which outlives it, with its stdout open or closed."""

import subprocess

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(argument_spec={"seconds": {"type": "float"}, "path": {}})
    command = "sleep {seconds}; echo done > {path}".format(**module.params)
    streams = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.DEVNULL)
    subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True, **streams)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
