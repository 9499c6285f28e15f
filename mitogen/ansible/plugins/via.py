"""
`mitogen_via`: the steps to a host that another is reached through, by that host's own connection.

Rules
    1. That connection is a plugin of ours like any other, with the options that it would have for a
       task on that host; only its steps are used.
    2. The other host's variables come from `hostvars`, which the task's own variables have. They
       are looked at only where a host has `mitogen_via`.
    3. A password that is meant for one host is never offered to another.

Threads: a worker's only one.
"""

from __future__ import annotations

import copy
from typing import Any

from ansible import constants as C, context
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.loader import become_loader, connection_loader

from mitogen.ansible.plugins import method_options

__all__ = ["steps_to"]

#: Variables that say a password for a connection, and for become.
PASSWORDS = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
BECOME_PASSWORDS = ("ansible_become_password", "ansible_become_pass")


def steps_to(plugin: Any, spec: str) -> list[Any]:
    """
    Return the steps to the host that a connection goes through.

    :param plugin: the connection plugin
    :param spec: its `mitogen_via`
    :raises AnsibleConnectionFailure: there is no such way
    """
    hostvars = plugin.variables.get("hostvars") or {}
    try:
        # A name may have an @ in it.
        method, user, name = ("", "", spec) if spec in hostvars else method_options.parse_via(spec)
    except ValueError as e:
        raise AnsibleConnectionFailure(str(e)) from e
    chain = [*plugin.chain, name]
    if name in plugin.chain:
        raise AnsibleConnectionFailure("mitogen_via goes in a circle: %s" % " -> ".join(chain))
    if name not in hostvars:
        raise AnsibleConnectionFailure(
            "mitogen_via=%s: there is no host %r in the inventory" % (spec, name)
        )
    theirs = hostvars[name]
    steps: list[Any] = _connection(plugin, chain, theirs).steps()
    return [*steps, _become(plugin, name, method, user, theirs)] if user else steps


def _connection(plugin: Any, chain: list[str], theirs: Any) -> Any:
    named = theirs.get("ansible_connection") or C.DEFAULT_TRANSPORT
    kind = method_options.kind_of(named)
    if kind is None:
        raise AnsibleConnectionFailure(
            "mitogen_via: nothing goes through %s, whose connection is %r" % (chain[-1], named)
        )
    play_context = copy.copy(plugin._play_context)
    play_context.remote_addr = theirs.get("ansible_host") or chain[-1]
    for name in ("mitogen.ansible.%s" % kind, "mitogen_%s" % kind):
        found = connection_loader.get(name, play_context, None)
        if found is not None:
            break
    else:
        raise AnsibleConnectionFailure("there is no connection plugin mitogen.ansible.%s" % kind)
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
    """Return the play's keywords; with them comes a password that is asked for at the start."""
    found = dict(plugin.task_keys or {})
    if not _is_for_all("ask_pass", "connection_password_file", PASSWORDS, plugin):
        found.pop("password", None)
    return found


def _is_for_all(flag: str, file: str, names: tuple[str, ...], plugin: Any) -> bool:
    said = context.CLIARGS.get(flag) or context.CLIARGS.get(file)
    return bool(said) and not any(name in plugin.variables for name in names)


def _become(plugin: Any, name: str, method: str, user: str, theirs: Any) -> Any:
    method = method or theirs.get("ansible_become_method") or C.DEFAULT_BECOME_METHOD
    found = become_loader.get(method)
    if found is None:
        raise AnsibleConnectionFailure("mitogen_via: there is no become method %r" % method)
    keywords = {}
    if _is_for_all("become_ask_pass", "become_password_file", BECOME_PASSWORDS, plugin):
        keywords["become_pass"] = plugin._play_context.become_pass
    found.set_options(
        task_keys=keywords,
        var_options=_options("become", found, theirs),
        direct={"become_user": user},
    )
    step = method_options.become_step(found)
    if step is None:
        raise AnsibleConnectionFailure(
            "mitogen_via: %s on %s, with the options that it has there, can't be gone through"
            % (method, name)
        )
    return step
