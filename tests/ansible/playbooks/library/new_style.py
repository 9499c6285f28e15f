#!/usr/bin/python
"""A new-style module with the playbook's own module_utils."""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.bed_helper import doubled


def main():
    module = AnsibleModule(argument_spec={"text": {"required": True}})
    module.exit_json(changed=True, text=doubled(module.params["text"]))


if __name__ == "__main__":
    main()
