"""The ways to run a playbook: data only.

`plain` is what Ansible does by itself; the others are the ways in that users have, each with the
settings that they would write, and nothing else.
"""

import pathlib
from typing import NamedTuple

__all__ = ["NAMES", "OURS", "WAYS", "Way"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "ansible_plugins"


class Way(NamedTuple):
    """How Ansible is set up.

    :param variables: what every host of the inventory has beside the bed's own.
    :param settings: what is in ansible.cfg beside the bed's own: section -> name -> value.
    :param environment: variables that ansible-playbook is started with.
    :param may_print: regular expression for messages that this way may print and plain doesn't.
    :param needs: the file of ansible_plugins/ without which this way is not there yet.
    """

    variables: dict[str, str]
    settings: dict[str, dict[str, str]] = {}
    environment: dict[str, str] = {}
    may_print: str = ""
    needs: str = ""

    def why_not(self) -> str:
        """Return why this way can't be gone in this checkout; '' if it can."""
        if self.needs and not (PLUGINS / self.needs).exists():
            return "there is no ansible_plugins/{} yet".format(self.needs)
        return ""


# What playbooks name where they need a certain one: `strategy: "{{ free_strategy }}"`.
NAMES = {
    "linear_strategy": "linear",
    "free_strategy": "free",
    "host_pinned_strategy": "host_pinned",
    "ssh_connection": "ssh",
    "local_connection": "local",
}

WAYS = {
    "plain": Way(NAMES),
    "connection": Way(
        {
            **NAMES,
            "ssh_connection": "mitogen.ansible.ssh",
            "local_connection": "mitogen.ansible.local",
        },
        needs="connection/mitogen_ssh.py",
    ),
    "callback": Way(
        NAMES,
        settings={"defaults": {"callbacks_enabled": "mitogen.ansible.mitogen"}},
        needs="callback/mitogen.py",
    ),
    "strategy": Way(
        {
            **NAMES,
            "linear_strategy": "mitogen_linear",
            "free_strategy": "mitogen_free",
            "host_pinned_strategy": "mitogen_host_pinned",
        },
        settings={
            "defaults": {
                "strategy": "mitogen_linear",
                "strategy_plugins": str(PLUGINS / "strategy"),
            }
        },
        may_print=r"[Ss]trategy plugin|mitogen\.ansible|Deprecation warnings can be disabled",
        needs="strategy/mitogen_linear.py",
    ),
}

OURS = [name for name in WAYS if name != "plain"]
