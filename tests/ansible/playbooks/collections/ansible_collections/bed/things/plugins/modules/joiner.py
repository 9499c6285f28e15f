#!/usr/bin/python
"""A module of a collection that uses the collection's module_utils."""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.bed.things.plugins.module_utils.words import joined

from ..module_utils import words


def main():
    module = AnsibleModule(argument_spec={"words": {"type": "list", "elements": "str"}})
    result = joined(module.params["words"])
    module.exit_json(changed=False, joined=result, same=words.joined is joined)


if __name__ == "__main__":
    main()
