"""
Translation of Ansible's options of connections and become into mitogen's connection methods:
tables.

A step is [method, options], followed by flags: "login" if it begins in its account's home, "become"
if it leads from a host's account to another one, "compress" if mitogen compresses files. The steps
to an account are connected one through the other. An option that no table has, such as a flag of
sudo's, makes a step impossible: then the command is run as Ansible has built it.

Threads: any; pure, except for the plugins' own get_option().
"""

from __future__ import annotations

import os
import shlex
import sys
from collections import namedtuple

from mitogen import core, sudo
from mitogen.bootstrap import handshake

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Union

    #: Source of a keyword of a method: the name of an option with text, or a function of the
    #: plugin.
    Source = Union[str, Callable[[Any], Any]]

__all__ = [
    "KINDS",
    "NAMES",
    "PYTHON",
    "account_step",
    "become_step",
    "kind_of",
    "local_step",
    "parse_via",
    "readable",
    "ssh_step",
    "tool_step",
]

#: The interpreter of a host's context: the system's own, if there is a usable one, because the
#: first on an account's PATH may be a wrapper that changes what modules see; else any that is
#: found. Names with a version show without a start which ones are too old.
PYTHON = [
    "sh",
    "-c",
    "for p in /usr/bin/python3.[6-9] /usr/bin/python3.[1-9][0-9] /usr/libexec/platform-python;"
    'do test -x $p&&exec $p "$0" "$@";done;'
    "for v in %s;do for p in /usr/libexec/platform-python$v python$v;do "
    'command -v $p>/dev/null&&exec $p "$0" "$@";done;done;echo MITO:NONE'
    % " ".join(handshake.SUFFIXES),
]
#: Description of PYTHON for error messages.
PYTHON_TEXT = "python3 in /usr/bin, /usr/libexec/platform-python, python3, python3.X and python"
#: Options of sudo, besides those for account and prompt, that steps support.
SUDO_OPTIONS = {
    "close_from",
    "group",
    "login",
    "preserve_env",
    "preserve_groups",
    "reset_timestamp",
    "selinux_role",
    "selinux_type",
    "set_home",
}
#: Options of become plugins that steps don't support: if one is set, there is no step.
UNKNOWN_OPTIONS = ("sudo_chdir", "prompt_l10n", "alt_method")
#: Arguments of `su` that make the account's shell a login shell.
SU_LOGIN = {"-", "-l", "--login"}
#: Ansible's default arguments of ssh. In place of their `-C`, mitogen compresses files and modules
#: itself, once and only if they get smaller: ssh compresses everything, at 30 ms a megabyte.
STOCK_SSH_ARGS = ["-C", "-o", "ControlMaster=auto", "-o", "ControlPersist=60s"]
#: Seconds that a session and an interpreter may take to start after the connection, which alone is
#: limited by Ansible's `timeout`: enough for fifty at once, on a busy machine.
START_TIMEOUT = 60.0
#: One connection stays open for the whole run, so OpenSSH need not share it.
NO_SHARING = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]


def _option(plugin: Any, name: str, default: Any = None) -> Any:
    try:
        value = plugin.get_option(name)
    except (KeyError, ValueError):
        return default
    return default if value is None else value


def _text(value: Any) -> Any:
    # Also converts Ansible's subclasses of str, which carry more than text.
    return None if value is None else "".join(str(value))


def _words(value: Any) -> list[str]:
    text = _text(value) or ""
    # Most values have no quotes. Each worker does this, so shlex is avoided.
    return shlex.split(text) if any(c in text for c in "'\"\\") else text.split()


def ssh_step(plugin: Any) -> list[Any]:
    """
    Return the step of an `ssh` connection.

    :param plugin: the connection plugin, with OpenSSH's options
    """
    given = _words(_option(plugin, "ssh_args", ""))
    compress = given == STOCK_SSH_ARGS
    words = given[1:] if compress else given
    for name in ("ssh_common_args", "ssh_extra_args"):
        words += _words(_option(plugin, name, ""))
    if not any("ControlPath=" in word for word in words[1:] if "none" not in word):
        words = NO_SHARING + words
    compress = compress and "-C" not in words
    words += ["-o", "ConnectTimeout=%d" % int(_option(plugin, "timeout", 10))]
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
        "connect_timeout": _timeout(plugin),
        "compression": "-C" in words,
        "python_path": ["exec", *PYTHON],
    }
    if options["port"] is not None:
        options["port"] = int(options["port"])
    found = {name: value for name, value in options.items() if value is not None}
    return ["ssh", found, *(["compress"] if compress else [])]


def local_step(plugin: Any) -> list[Any]:
    """Return the step of a `local` connection."""
    # Any will do, because modules name their own. Any account may run the system's.
    found = [path for path in ("/usr/bin/python3", sys.executable) if os.access(path, os.X_OK)]
    return ["local", {"python_path": found[0]}]


# ---- containers and the like: tables


def _path(program: str, arguments: str = "") -> Source:
    """Return a source of words: the option `program`, then the words of the option `arguments`."""

    def command(plugin: Any) -> list[str]:
        extra = _words(_option(plugin, arguments, "")) if arguments else []
        return [_text(_option(plugin, program)), *extra]

    return command


def _timeout(plugin: Any, name: str = "timeout") -> float:
    return float(_option(plugin, name, 10)) + START_TIMEOUT


def _docker_args(plugin: Any) -> list[str]:
    words = []
    for name, value in (_option(plugin, "extra_env") or {}).items():
        words += ["--env", "%s=%s" % (_text(name), _text(value))]
    directory = _text(_option(plugin, "working_dir"))
    words += ["--workdir", directory] if directory else []
    return words + (["--privileged"] if _option(plugin, "privileged") else [])


def _instance(plugin: Any) -> str:
    # An instance's name has no dots: it is the first label of a host's full name.
    name = _text(_option(plugin, "remote_addr")).split(".")[0]
    return "%s:%s" % (_text(_option(plugin, "remote", "local")), name)


def _of_project(program: str) -> Source:
    def command(plugin: Any) -> list[str]:
        project = _text(_option(plugin, "project"))
        words = ["--project", project] if project else []
        return [_text(_option(plugin, program)), *words]

    return command


#: Options of kubectl's plugin: name to option on kubectl's command line.
KUBECTL = {
    "kubectl_namespace": "--namespace",
    "kubectl_kubeconfig": "--kubeconfig",
    "kubectl_context": "--context",
    "kubectl_host": "--server",
    "kubectl_username": "--username",
    "kubectl_password": "--password",
    "kubectl_token": "--token",
    "client_cert": "--client-certificate",
    "client_key": "--client-key",
    "ca_cert": "--certificate-authority",
}
_NO = ("no", "false", "0", "off", "n", "f")


def _kubectl(plugin: Any) -> list[str]:
    added = _option(plugin, "kubectl_local_env_vars") or {}
    words = ["%s=%s" % (_text(name), _text(value)) for name, value in added.items()]
    words = ["env", *words] if words else []
    words.append(_text(_option(plugin, "kubectl_path", "kubectl")))
    for name, flag in KUBECTL.items():
        value = _option(plugin, name)
        words += [flag, _text(value)] if value else []
    checks = _text(_option(plugin, "validate_certs", ""))
    if checks:
        skip = "true" if checks.lower() in _NO else "false"
        words.append("--insecure-skip-tls-verify=" + skip)
    return words + _words(_option(plugin, "kubectl_extra_args", ""))


def _pod(plugin: Any) -> str:
    found: str = _text(_option(plugin, "kubectl_pod") or _option(plugin, "remote_addr"))
    return found


def _kind(plugin: Any) -> str:
    # If it is not set, the method raises the error, with a list of the known kinds.
    return _text(_option(plugin, "kind")) or "(mitogen_kind is not set)"


_NAMESPACES: dict[str, Source] = {
    "container": "remote_addr",
    "username": "remote_user",
    "nsenter_path": "nsenter_path",
    "machinectl_path": "machinectl_path",
}

#: A kind of connection: its method, the sources of the method's keywords, and the plugins of other
#: collections that it can replace.
Kind = namedtuple("Kind", "method keywords stock")
KINDS: dict[str, Kind] = {
    "docker": Kind(
        "docker",
        {
            "container": "remote_addr",
            "username": "remote_user",
            "docker_path": _path("docker_path", "docker_extra_args"),
            "docker_args": _docker_args,
            "connect_timeout": lambda plugin: _timeout(plugin, "container_timeout"),
        },
        ["community.docker.docker", "community.general.docker"],
    ),
    "podman": Kind(
        "podman",
        {
            "container": "remote_addr",
            "username": "remote_user",
            "podman_path": _path("podman_executable", "podman_extra_args"),
        },
        ["containers.podman.podman"],
    ),
    "buildah": Kind(
        "buildah",
        {
            "container": "remote_addr",
            "username": "remote_user",
            "buildah_path": "buildah_path",
        },
        ["containers.podman.buildah"],
    ),
    "kubectl": Kind(
        "kubectl",
        {"pod": _pod, "container": "kubectl_container", "kubectl_path": _kubectl},
        ["kubernetes.core.kubectl", "community.kubernetes.kubectl"],
    ),
    "lxc": Kind(
        "lxc",
        {"container": "remote_addr", "lxc_attach_path": "lxc_attach_path"},
        ["community.general.lxc"],
    ),
    "lxd": Kind(
        "lxd",
        {"container": _instance, "lxc_path": _of_project("lxc_path")},
        ["community.general.lxd"],
    ),
    "incus": Kind(
        "incus",
        {"container": _instance, "incus_path": _of_project("incus_path")},
        ["community.general.incus"],
    ),
    "jail": Kind(
        "jail",
        {"container": "remote_addr", "username": "remote_user", "jexec_path": "jexec_path"},
        ["community.general.jail"],
    ),
    "setns": Kind(
        "setns",
        {
            "kind": _kind,
            "docker_path": "docker_path",
            "lxc_path": "lxc_path",
            "lxc_info_path": "lxc_info_path",
            **_NAMESPACES,
        },
        [],
    ),
    "machinectl": Kind("setns", {"kind": lambda plugin: "machinectl", **_NAMESPACES}, []),
}


def tool_step(plugin: Any, kind: str) -> list[Any]:
    """
    Return the step into a container or the like.

    :param plugin: the connection plugin
    :param str kind: a key of KINDS
    """
    row = KINDS[kind]
    options = {"connect_timeout": _timeout(plugin), "python_path": ["exec", *PYTHON]}
    for keyword, source in row.keywords.items():
        options[keyword] = source(plugin) if callable(source) else _text(_option(plugin, source))
    return [row.method, _given(options)]


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, "", [])}


#: Names of connection plugins: name to the kind that it is, or that can replace it.
NAMES: dict[str, str] = {
    **{
        prefix + name: kind
        for prefix in ("", "ansible.builtin.", "ansible.legacy.")
        for name, kind in (("ssh", "ssh"), ("smart", "ssh"), ("local", "local"))
    },
    **{name: kind for kind, row in KINDS.items() for name in [kind, *row.stock]},
    **{
        prefix + kind: kind
        for prefix in ("mitogen_", "mitogen.ansible.")
        for kind in ["ssh", "local", "sudo", "su", "doas", *KINDS]
    },
}


def readable(text: str) -> str:
    """Return an error's text with PYTHON replaced by its short description."""
    return text.replace(" ".join(["exec", *PYTHON]), PYTHON_TEXT)


def kind_of(name: Any) -> str | None:
    """Return the kind for the name of a connection plugin; None if there is none."""
    return NAMES.get(str(name))


def parse_via(spec: str) -> tuple[str, str, str]:
    """
    Return (become method, account, inventory name) in a `mitogen_via`; '' for a missing part.

    :raises ValueError: it is not of the form `[[method:]user@]name`

    >>> parse_via("sudo:root@bastion")
    ('sudo', 'root', 'bastion')
    """
    before, at, name = spec.rpartition("@")
    method, colon, user = before.rpartition(":")
    if not name or (at and not user) or (colon and not method):
        raise ValueError("mitogen_via=%r is not of the form [[method:]user@]name" % spec)
    return method, user, name


# ---- other accounts


def _sudo(user: str, password: Any, program: Any, flags: Any) -> list[Any] | None:
    words = _words(program) or ["sudo"]
    try:
        found = sudo.parse_sudo_args(words[1:] + _words(flags))
    except core.StreamError:
        return None
    if set(found) - SUDO_OPTIONS:
        return None
    options = {"username": _text(user), "password": _text(password), "sudo_path": words[0]}
    others = []
    for short, _, name, has_value in sudo.SUDO_OPTIONS:
        if name in ("login", "preserve_env", "set_home", "selinux_role", "selinux_type"):
            options.update({name: found[name]} if name in found else {})
        elif name in found:
            others += [short, found[name]] if has_value else [short]
    return [
        "sudo",
        _given(dict(options, sudo_args=others)),
        *(["login"] if "login" in found else []),
    ]


def _su(user: str, password: Any, program: Any, flags: Any) -> list[Any] | None:
    words = _words(program) or ["su"]
    if _words(flags):
        return None
    if words[1:]:
        # Only the plugin knows the text and the language of the prompt.
        return None if password else _su_of_another(words, _text(user))
    options = {"username": _text(user), "password": _text(password), "su_path": words[0]}
    return ["su", _given(options)]


def _su_of_another(words: list[str], user: str) -> list[Any] | None:
    """Return the step of a su started by sudo or the like without a password: `sudo su -`."""
    command = words[:-1] if words[-1] in SU_LOGIN else words
    if os.path.basename(command[-1]) != "su":
        return None
    plain = [word.replace("{", "{{").replace("}", "}}") for word in [*words, user]]
    options = {"argv": [*plain, "-c", "{shell}"]}
    return ["command", options, *(["login"] if command != words else [])]


def _doas(user: str, password: Any, program: Any, flags: Any) -> list[Any] | None:
    words = _words(program) or ["doas"]
    # -n forbids a prompt. It is dropped, because a prompt without a password fails anyway; then the
    # command itself is run for its message.
    if set(words[1:] + _words(flags)) - {"-n"}:
        return None
    options = {"username": _text(user), "password": _text(password), "doas_path": words[0]}
    return ["doas", _given(options)]


def _sudosu(user: str, password: Any, program: Any, flags: Any) -> list[Any] | None:
    return None if password else _su_of_another(["sudo", *_words(flags), "su", "-l"], _text(user))


#: Functions that return the step of a become plugin, or None, by the plugin's name. Arguments:
#: account, password, program, flags.
BECOME: dict[str, Callable[..., Any]] = {
    "sudo": _sudo,
    "ansible.builtin.sudo": _sudo,
    "su": _su,
    "ansible.builtin.su": _su,
    "doas": _doas,
    "community.general.doas": _doas,
    "community.general.sudosu": _sudosu,
}


def become_step(plugin: Any) -> list[Any] | None:
    """
    Return the step of a become plugin; None if the command that it builds must be run.

    :param plugin: the become plugin
    """
    make = BECOME.get(str(getattr(plugin, "name", "")))
    if make is None or any(_option(plugin, name) for name in UNKNOWN_OPTIONS):
        return None
    return make(  # type: ignore[no-any-return]
        _option(plugin, "become_user") or "root",
        _option(plugin, "become_pass"),
        _option(plugin, "become_exe"),
        _option(plugin, "become_flags"),
    )


def account_step(plugin: Any, kind: str) -> list[Any] | None:
    """
    Return the step of a connection whose host is an account; None if an option isn't supported.

    :param plugin: the connection plugin
    :param str kind: "sudo", "su" or "doas"
    """
    step = BECOME[kind](
        _option(plugin, "remote_user") or "root",
        _option(plugin, "password"),
        _option(plugin, "%s_exe" % kind),
        _option(plugin, "%s_flags" % kind),
    )
    if step is not None:
        step[1]["connect_timeout"] = _timeout(plugin)
    return step  # type: ignore[no-any-return]
