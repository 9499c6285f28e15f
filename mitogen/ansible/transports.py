"""
What Ansible's options of a connection or of become mean as mitogen's connection methods: tables.

A step is [method, options]; the steps to an account are connected one through the other. What a
table does not know (a flag of sudo's, say) has no step: then the command itself is run, as Ansible
has built it.

Threads: any; pure, but for the plugins' own get_option().
"""

import os
import shlex
import sys

MYPY = False
if MYPY:
    from typing import Any, List, Optional

__all__ = ["become_step", "local_step", "ssh_step"]

#: Options of sudo that mitogen's own way to start it makes needless, or that it takes.
SUDO_FLAGS = {"-H", "-S", "-n", "--set-home", "--stdin", "--non-interactive"}
#: The same connection stays open for the whole run: OpenSSH need not keep another.
NO_SHARING = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]


def _option(plugin: "Any", name: "str", default: "Any" = None) -> "Any":
    try:
        value = plugin.get_option(name)
    except (KeyError, AttributeError, ValueError):
        return default
    return default if value is None else value


def _text(value: "Any") -> "Any":
    # Of Ansible's own kinds of text, which carry more than text.
    return None if value is None else "".join(str(value))


def _words(value: "Any") -> "List[str]":
    return [_text(word) for word in shlex.split(_text(value) or "")]


def ssh_step(plugin: "Any") -> "List[Any]":
    """
    Return the step of an `ssh` connection.

    :param plugin: the connection plugin, with OpenSSH's options
    """
    words = []
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        words += _words(_option(plugin, name, ""))
    if not any("ControlPath=" in word for word in words[1:] if "none" not in word):
        words = NO_SHARING + words
    timeout = int(_option(plugin, "timeout", 10))
    checks = _option(plugin, "host_key_checking", True)
    options = {
        "hostname": _text(_option(plugin, "host") or plugin._play_context.remote_addr),
        "username": _text(_option(plugin, "remote_user")),
        "port": _option(plugin, "port"),
        "password": _text(_option(plugin, "password")),
        "identity_file": _text(_option(plugin, "private_key_file")),
        "ssh_path": _text(_option(plugin, "ssh_executable")),
        "ssh_args": words,
        "check_host_keys": "enforce" if checks else "ignore",
        "connect_timeout": timeout,
    }
    if options["port"] is not None:
        options["port"] = int(options["port"])
    return ["ssh", {name: value for name, value in options.items() if value is not None}]


def local_step(plugin: "Any") -> "List[Any]":
    """Return the step of a `local` connection."""
    # Which one does not matter: modules name theirs. Any account may run the system's.
    found = [path for path in ("/usr/bin/python3", sys.executable) if os.access(path, os.X_OK)]
    return ["local", {"python_path": found[0]}]


def _sudo(plugin: "Any") -> "Optional[List[Any]]":
    flags = set(_words(_option(plugin, "become_flags", "")))
    program = _words(_option(plugin, "become_exe", "sudo")) or ["sudo"]
    flags.update(program[1:])
    if flags - SUDO_FLAGS:
        return None
    options = {
        "username": _text(_option(plugin, "become_user", "root")),
        "password": _text(_option(plugin, "become_pass")),
        "sudo_path": program[0],
        "set_home": bool(flags & {"-H", "--set-home"}),
    }
    return ["sudo", {name: value for name, value in options.items() if value is not None}]


def _su(plugin: "Any") -> "Optional[List[Any]]":
    program = _words(_option(plugin, "become_exe", "su")) or ["su"]
    if program[1:] or _words(_option(plugin, "become_flags", "")):
        return None
    options = {
        "username": _text(_option(plugin, "become_user", "root")),
        "password": _text(_option(plugin, "become_pass")),
        "su_path": program[0],
    }
    return ["su", {name: value for name, value in options.items() if value is not None}]


#: Name of a become plugin to what returns its step, or None.
BECOME = {
    "sudo": _sudo,
    "ansible.builtin.sudo": _sudo,
    "su": _su,
    "ansible.builtin.su": _su,
}


def become_step(plugin: "Any") -> "Optional[List[Any]]":
    """
    Return the step of a become plugin; None if its own command is to be run.

    :param plugin: the become plugin
    """
    make = BECOME.get(str(getattr(plugin, "name", "")))
    return make(plugin) if make else None
