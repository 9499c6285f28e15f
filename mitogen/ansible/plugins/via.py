"""
`mitogen_via`: the steps to a host behind another one, through that host's own connection.

Rules
    1. That connection is a plugin of mitogen's like any other, with the options of a task on that
       host; only its steps are used.
    2. The other host's variables come from `hostvars` in the task's own variables. They are read
       only for hosts with `mitogen_via`.
    3. A password meant for one host is never sent to another.

Threads: a worker's only one.
"""

from __future__ import annotations

import copy
from typing import Any

from ansible import constants as C, context
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.loader import become_loader, connection_loader

from mitogen.ansible.plugins import option_translation

__all__ = ["steps_to"]

#: Variables with the password of a connection, and of become.
PASSWORDS = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
BECOME_PASSWORDS = ("ansible_become_password", "ansible_become_pass")


def steps_to(plugin: Any, spec: str) -> list[Any]:
    """
    Return the steps to the host that a connection goes through.

    :param plugin: the connection plugin
    :param spec: value of its option `mitogen_via`
    :raises AnsibleConnectionFailure: the value is invalid, or the host can't be gone through
    """
    hostvars = plugin.variables.get("hostvars") or {}
    try:
        # The name itself may contain an @.
        method, user, name = (
            ("", "", spec) if spec in hostvars else option_translation.parse_via(spec)
        )
    except ValueError as e:
        raise AnsibleConnectionFailure(str(e)) from e
    chain = [*plugin.chain, name]
    if name in plugin.chain:
        raise AnsibleConnectionFailure("mitogen_via forms a circle: %s" % " -> ".join(chain))
    if name not in hostvars:
        raise AnsibleConnectionFailure(
            "mitogen_via=%s: host %r is not in the inventory" % (spec, name)
        )
    theirs = hostvars[name]
    steps: list[Any] = _connection(plugin, chain, theirs).steps()
    return [*steps, _become(plugin, name, method, user, theirs)] if user else steps


def _connection(plugin: Any, chain: list[str], theirs: Any) -> Any:
    named = theirs.get("ansible_connection") or C.DEFAULT_TRANSPORT
    kind = option_translation.kind_of(named)
    if kind is None:
        raise AnsibleConnectionFailure(
            "mitogen_via: host %s can't be gone through: mitogen does not support its connection %r"
            % (chain[-1], named)
        )
    play_context = copy.copy(plugin._play_context)
    play_context.remote_addr = theirs.get("ansible_host") or chain[-1]
    for name in ("mitogen.ansible.%s" % kind, "mitogen_%s" % kind):
        found = connection_loader.get(name, play_context, None)
        if found is not None:
            break
    else:
        raise AnsibleConnectionFailure(
            "mitogen_via: connection plugin mitogen.ansible.%s not found" % kind
        )
    found.chain = chain
    found.variables = plugin.variables
    found.set_options(
        task_keys=_keywords(plugin), var_options=_options("connection", found, theirs)
    )
    return found


def _options(plugin_type: str, plugin: Any, theirs: Any) -> dict[str, Any]:
    names = C.config.get_plugin_vars(plugin_type, plugin._load_name)
    return {name: theirs[name] for name in names if name in theirs}


def _keywords(plugin: Any) -> dict[str, Any]:
    """Return the play's keywords; they include a password entered at the start."""
    found = dict(plugin.task_keys or {})
    if not _is_for_all("ask_pass", "connection_password_file", PASSWORDS, plugin):
        found.pop("password", None)
    return found


def _is_for_all(flag: str, file: str, names: tuple[str, ...], plugin: Any) -> bool:
    given = context.CLIARGS.get(flag) or context.CLIARGS.get(file)
    return bool(given) and not any(name in plugin.variables for name in names)


def _become(plugin: Any, name: str, method: str, user: str, theirs: Any) -> Any:
    method = method or theirs.get("ansible_become_method") or C.DEFAULT_BECOME_METHOD
    found = become_loader.get(method)
    if found is None:
        raise AnsibleConnectionFailure("mitogen_via: become method %r not found" % method)
    keywords = {}
    if _is_for_all("become_ask_pass", "become_password_file", BECOME_PASSWORDS, plugin):
        keywords["become_pass"] = plugin._play_context.become_pass
    found.set_options(
        task_keys=keywords,
        var_options=_options("become", found, theirs),
        direct={"become_user": user},
    )
    step = option_translation.become_step(found)
    if step is None:
        raise AnsibleConnectionFailure(
            "mitogen_via: %s on %s has options there that mitogen does not support" % (method, name)
        )
    return step
