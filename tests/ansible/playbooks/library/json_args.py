#!/usr/bin/python
"""A module whose arguments are inserted into its source."""

import json
import sys

ARGUMENTS = """<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>"""
arguments = json.loads(ARGUMENTS)
known = {name: value for name, value in arguments.items() if not name.startswith("_ansible")}
print(json.dumps({"changed": True, "arguments": known, "argc": len(sys.argv)}))
