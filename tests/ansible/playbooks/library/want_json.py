#!/usr/bin/python
"""A module that gets its arguments in a file, as marked by WANT_JSON."""

import json
import sys

with open(sys.argv[1]) as file:
    arguments = json.load(file)
known = {name: value for name, value in arguments.items() if not name.startswith("_ansible")}
keys = sorted(name for name in arguments if name.startswith("_ansible"))
print(json.dumps({"changed": False, "arguments": known, "keys": keys, "argc": len(sys.argv)}))
