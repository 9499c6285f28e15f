"""A stand-in for community.general.doas: the parts a connection uses (name, options, prompt)."""

import re

from ansible.plugins.become import BecomeBase

DOCUMENTATION = """
    name: doas
    short_description: becomes another user by doas
    description: Has the name of the plugin in community.general, whose step it is to have.
    version_added: "1.0"
    options:
        become_user:
            description: who to become
            vars: [{name: ansible_become_user}]
            ini: [{section: privilege_escalation, key: become_user}]
        become_exe:
            description: the program
            default: doas
            vars: [{name: ansible_become_exe}]
        become_flags:
            description: its options
            default: ''
            vars: [{name: ansible_become_flags}]
        become_pass:
            description: what it asks for
            vars: [{name: ansible_become_password}]
        prompt_l10n:
            description: what it asks with
            type: list
            elements: str
            default: []
            vars: [{name: ansible_doas_prompt_l10n}]
"""


class BecomeModule(BecomeBase):
    name = "community.general.doas"
    fail = ("Permission denied",)
    missing = ("Authorization required",)

    def check_password_prompt(self, b_output):
        return bool(re.match(rb"doas \(|Password:", b_output))

    def build_become_command(self, cmd, shell):
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        self.prompt = True
        flags = self.get_option("become_flags")
        if not self.get_option("become_pass") and "-n" not in flags:
            flags += " -n"
        user = self.get_option("become_user")
        words = [self.get_option("become_exe"), flags, "-u %s" % user if user else "", "/bin/sh"]
        return "{} -c {}".format(
            " ".join(words), self._build_success_command(cmd, shell, noexe=True)
        )
