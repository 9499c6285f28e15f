#!/usr/bin/python
"""A module that returns a text of `size` characters."""

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule(argument_spec={"size": {"type": "int"}, "unit": {"default": "x"}})
    unit, size = module.params["unit"], module.params["size"]
    module.exit_json(changed=False, text=(unit * (size // len(unit) + 1))[:size])


if __name__ == "__main__":
    main()
