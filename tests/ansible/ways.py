"""The ways to run a playbook, as data.

`plain` is Ansible by itself; the others are the ways users can enable mitogen, each with only the
settings that a user would write.
"""

from typing import NamedTuple

from tests.checkout import ROOT

__all__ = ["NAMES", "OURS", "WAYS", "Way"]

PLUGINS = ROOT / "ansible_plugins"


class Way(NamedTuple):
    """A configuration of Ansible.

    :param variables: additional variables of every host in the inventory.
    :param settings: additional settings for ansible.cfg: section -> name -> value.
    :param environment: environment variables of ansible-playbook.
    :param may_print: regular expression for messages that only this way may print, not plain.
    """

    variables: dict[str, str]
    settings: dict[str, dict[str, str]] = {}
    environment: dict[str, str] = {}
    may_print: str = ""


# Plugin names for playbooks that need a certain one: `strategy: "{{ free_strategy }}"`.
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
