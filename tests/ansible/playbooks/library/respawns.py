#!/usr/bin/python
"""A module that starts itself again with another interpreter, as apt and dnf do."""

import sys

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, respawn_module


def main():
    module = AnsibleModule(argument_spec={"python": {"required": True}, "text": {}})
    if not has_respawned():
        respawn_module(module.params["python"])
    module.exit_json(
        changed=False,
        text=module.params["text"],
        respawned=has_respawned(),
        executable=sys.executable,
    )


if __name__ == "__main__":
    main()
