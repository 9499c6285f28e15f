"""An unknown become plugin: doas by another name."""

import shlex

from ansible.plugins.become import BecomeBase

DOCUMENTATION = """
    name: errand
    short_description: becomes another user by doas
    description: As community.general.doas, less its prompts.
    version_added: "1.0"
    options:
        become_user:
            description: who to become
            default: root
            ini: [{section: privilege_escalation, key: become_user}]
            vars: [{name: ansible_become_user}]
        become_exe:
            description: the program
            default: doas
            vars: [{name: ansible_become_exe}]
        become_flags:
            description: its options
            default: ''
            vars: [{name: ansible_become_flags}]
"""


class BecomeModule(BecomeBase):
    name = "errand"

    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        user, program = self.get_option("become_user"), self.get_option("become_exe")
        return "{} -u {} {}".format(
            program, shlex.quote(user), self._build_success_command(cmd, shell)
        )
