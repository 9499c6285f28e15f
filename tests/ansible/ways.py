"""The ways to run a playbook: data only.

`plain` is what Ansible does by itself; the others are the ways in that users have, each with the
settings that they would write, and nothing else.
"""

from typing import NamedTuple

from tests.checkout import ROOT

__all__ = ["NAMES", "OURS", "WAYS", "Way"]

PLUGINS = ROOT / "ansible_plugins"


class Way(NamedTuple):
    """How Ansible is set up.

    :param variables: what every host of the inventory has beside the bed's own.
    :param settings: what is in ansible.cfg beside the bed's own: section -> name -> value.
    :param environment: variables that ansible-playbook is started with.
    :param may_print: regular expression for messages that this way may print and plain doesn't.
    """

    variables: dict[str, str]
    settings: dict[str, dict[str, str]] = {}
    environment: dict[str, str] = {}
    may_print: str = ""


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
    ),
    "callback": Way(
        NAMES,
        settings={"defaults": {"callbacks_enabled": "mitogen.ansible.mitogen"}},
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
    ),
}

OURS = [name for name in WAYS if name != "plain"]
