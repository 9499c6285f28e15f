"""A connection plugin of an unknown kind, neither ssh nor local, which mitogen must not replace."""

import os

from ansible.plugins.connection import local

DOCUMENTATION = """
    name: alien
    short_description: runs on the controller and identifies itself
    description: Like local, with behavior of its own class.
    version_added: "1.0"
    options: {}
    extends_documentation_fragment: [connection_pipelining]
"""


class Connection(local.Connection):
    transport = "alien"
    has_pipelining = False

    def exec_command(self, cmd, in_data=None, sudoable=True):
        with open(os.environ["BED_RESULTS"] + ".alien", "a") as file:
            file.write(cmd + "\n")
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
