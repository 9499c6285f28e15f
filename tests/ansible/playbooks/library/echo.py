#!/usr/bin/python
"""A module that returns its arguments and their types."""

from ansible.module_utils.basic import AnsibleModule


def main():
    kinds = {"text": "str", "number": "int", "items": "list", "mapping": "dict", "flag": "bool"}
    arguments = {name: {"type": kind} for name, kind in kinds.items()}
    arguments.update(
        anything={"type": "raw"},
        secret={"type": "str", "no_log": True},
        ratio={"type": "float"},
        path={"type": "path"},
        changed={"type": "bool", "default": False},
    )
    module = AnsibleModule(argument_spec=arguments, supports_check_mode=True)
    given = {name: value for name, value in module.params.items() if value is not None}
    types = {name: type(value).__name__ for name, value in given.items()}
    result = dict(given=given, types=types, check=module.check_mode, diff_mode=module._diff)
    result["verbosity"] = module._verbosity
    module.exit_json(changed=given.pop("changed"), **result)


if __name__ == "__main__":
    main()
