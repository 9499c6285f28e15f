"""
Options of the connection plugins that have no counterpart in Ansible itself: a table, and the
DOCUMENTATION generated from it.

Rules
    1. If a collection has a plugin for the same purpose, names, variables and defaults are taken
       from it: community.docker.docker, containers.podman.podman and .buildah,
       kubernetes.core.kubectl, community.general.lxc, .lxd, .incus and .jail. None of them has to
       be installed.
    2. The result is text, a line for each option, because each worker parses it.

Threads: any; pure.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NamedTuple

    class Option(NamedTuple):
        description: str
        vars: Sequence[str]
        default: Any
        type: str
        env: Sequence[str]
        ini: Sequence[tuple[str, str]]
        cli: str
        keyword: str
else:
    from collections import namedtuple

    Option = namedtuple("Option", "description vars default type env ini cli keyword")

__all__ = ["KINDS", "PIPELINING", "VIA", "documentation"]

#: Option for modules on standard input, on by default; added to a stock plugin's options, too.
PIPELINING = """
pipelining:
  description: Send modules on an interpreter's standard input instead of copying them first.
  type: boolean
  default: true
  env: [{name: ANSIBLE_PIPELINING}, {name: ANSIBLE_SSH_PIPELINING}]
  ini:
    - {section: defaults, key: pipelining}
    - {section: connection, key: pipelining}
    - {section: ssh_connection, key: pipelining}
  vars: [{name: ansible_pipelining}, {name: ansible_ssh_pipelining}]
"""
#: Option for a connection through another host; added likewise.
VIA = """
mitogen_via:
  description:
    - Inventory name of a host. This host is reached through it, by that host's own connection.
    - C(user@name) first becomes that user there, C(method:user@name) with that become method.
  type: str
  vars: [{name: mitogen_via}]
"""


def _option(
    description: str,
    *variables: str,
    default: Any = None,
    type: str = "str",
    env: Sequence[str] = (),
    ini: Sequence[tuple[str, str]] = (),
    cli: str = "",
    keyword: str = "",
) -> Option:
    return Option(description, variables, default, type, env, ini, cli, keyword)


def _remote_addr(what: str, *variables: str) -> Option:
    variables = ("inventory_hostname", "ansible_host", *variables)
    return _option("Name of the %s." % what, *variables, default="inventory_hostname")


def _remote_user(*variables: str, **sources: Any) -> Option:
    return _option("Account in the container.", "ansible_user", *variables, **sources)


def _timeout(*variables: str, **sources: Any) -> Option:
    given = {"env": ["ANSIBLE_TIMEOUT"], "ini": [("defaults", "timeout")], "cli": "timeout"}
    given.update(sources)
    text = "Seconds until it must be connected. An interpreter gets another minute to start."
    return _option(text, *variables, default=10, type="int", **given)  # type: ignore[arg-type]


#: Sources of the account that apply to all kinds of connection.
_COMMON_USER = {
    "env": ["ANSIBLE_REMOTE_USER"],
    "ini": [("defaults", "remote_user")],
    "cli": "user",
    "keyword": "remote_user",
}

_KUBECTL: dict[str, Option] = {
    "kubectl_pod": _option(
        "Name of the pod, if it is not the host's address.",
        "ansible_kubectl_pod",
        default="",
        env=["K8S_AUTH_POD"],
    ),
    "kubectl_container": _option(
        "Name of one of the pod's containers.",
        "ansible_kubectl_container",
        default="",
        env=["K8S_AUTH_CONTAINER"],
    ),
    "kubectl_namespace": _option(
        "Namespace of the pod.",
        "ansible_kubectl_namespace",
        default="",
        env=["K8S_AUTH_NAMESPACE"],
    ),
    "kubectl_extra_args": _option(
        "More arguments of kubectl, placed before its command.",
        "ansible_kubectl_extra_args",
        default="",
        env=["K8S_AUTH_EXTRA_ARGS"],
    ),
    "kubectl_local_env_vars": _option(
        "Variables added to kubectl's environment.",
        "ansible_kubectl_local_env_vars",
        default={},
        type="dict",
    ),
    "kubectl_kubeconfig": _option(
        "Path of kubectl's configuration.",
        "ansible_kubectl_kubeconfig",
        "ansible_kubectl_config",
        default="",
        env=["K8S_AUTH_KUBECONFIG"],
    ),
    "kubectl_context": _option(
        "Context in that configuration.",
        "ansible_kubectl_context",
        default="",
        env=["K8S_AUTH_CONTEXT"],
    ),
    "kubectl_host": _option(
        "URL of the API server.",
        "ansible_kubectl_host",
        "ansible_kubectl_server",
        default="",
        env=["K8S_AUTH_HOST", "K8S_AUTH_SERVER"],
    ),
    "kubectl_username": _option(
        "User name for the API server.",
        "ansible_kubectl_username",
        "ansible_kubectl_user",
        default="",
        env=["K8S_AUTH_USERNAME"],
    ),
    "kubectl_password": _option(
        "Password for the API server; visible in ps.",
        "ansible_kubectl_password",
        default="",
        env=["K8S_AUTH_PASSWORD"],
    ),
    "kubectl_token": _option(
        "Token for the API server; visible in ps.",
        "ansible_kubectl_token",
        "ansible_kubectl_api_key",
        env=["K8S_AUTH_TOKEN", "K8S_AUTH_API_KEY"],
    ),
    "client_cert": _option(
        "Path of a client certificate.",
        "ansible_kubectl_cert_file",
        "ansible_kubectl_client_cert",
        default="",
        env=["K8S_AUTH_CERT_FILE"],
    ),
    "client_key": _option(
        "Path of the client certificate's key.",
        "ansible_kubectl_key_file",
        "ansible_kubectl_client_key",
        default="",
        env=["K8S_AUTH_KEY_FILE"],
    ),
    "ca_cert": _option(
        "Path of the certificate of the authority.",
        "ansible_kubectl_ssl_ca_cert",
        "ansible_kubectl_ca_cert",
        default="",
        env=["K8S_AUTH_SSL_CA_CERT"],
    ),
    "validate_certs": _option(
        "Check the server's certificate.",
        "ansible_kubectl_verify_ssl",
        "ansible_kubectl_validate_certs",
        default="",
        env=["K8S_AUTH_VERIFY_SSL"],
    ),
}


def _paths(**programs: str) -> dict[str, Option]:
    """Return an option for the path of each program: `name="program"`, variable `mitogen_name`."""
    text = "Path of the program %s."
    return {
        name: _option(text % program, "mitogen_" + name, default=program)
        for name, program in programs.items()
    }


def _account(name: str) -> dict[str, Option]:
    """Return the options of a connection to another account of the same host."""
    return {
        "remote_user": _option(
            "The account to switch to.",
            "ansible_user",
            "ansible_%s_user" % name,
            default="root",
            keyword="remote_user",
            cli="user",
        ),
        "password": _option(
            "Password for %s's prompt." % name,
            "ansible_password",
            "ansible_%s_pass" % name,
            keyword="password",
        ),
        "%s_exe" % name: _option(
            "Path of the program %s." % name, "ansible_%s_exe" % name, default=name
        ),
        "%s_flags" % name: _option(
            "Options of the program %s." % name, "ansible_%s_flags" % name, default=""
        ),
        "timeout": _timeout("ansible_timeout"),
    }


#: Options by kind of connection.
KINDS: dict[str, dict[str, Option]] = {
    "docker": {
        "remote_addr": _remote_addr("container", "ansible_docker_host"),
        "remote_user": _remote_user("ansible_docker_user", **_COMMON_USER),
        "docker_extra_args": _option(
            "More arguments of docker, placed before its command.",
            "ansible_docker_extra_args",
            default="",
            ini=[("docker_connection", "extra_cli_args")],
        ),
        "container_timeout": _timeout(
            "ansible_docker_timeout",
            env=["ANSIBLE_TIMEOUT", "ANSIBLE_DOCKER_TIMEOUT"],
            ini=[("defaults", "timeout"), ("docker_connection", "timeout")],
        ),
        "extra_env": _option(
            "Variables added to the environment in the container.",
            "ansible_docker_extra_env",
            type="dict",
        ),
        "working_dir": _option(
            "Working directory in the container.",
            "ansible_docker_working_dir",
            env=["ANSIBLE_DOCKER_WORKING_DIR"],
            ini=[("docker_connection", "working_dir")],
        ),
        "privileged": _option(
            "Run with all privileges.",
            "ansible_docker_privileged",
            default=False,
            type="bool",
            env=["ANSIBLE_DOCKER_PRIVILEGED"],
            ini=[("docker_connection", "privileged")],
        ),
        **_paths(docker_path="docker"),
    },
    "podman": {
        "remote_addr": _remote_addr("container", "ansible_podman_host"),
        "remote_user": _remote_user(**_COMMON_USER),
        "podman_extra_args": _option(
            "More arguments of podman, placed before its command.",
            "ansible_podman_extra_args",
            default="",
            env=["ANSIBLE_PODMAN_EXTRA_ARGS"],
            ini=[("defaults", "podman_extra_args")],
        ),
        "podman_executable": _option(
            "Path of the program podman.",
            "ansible_podman_executable",
            default="podman",
            env=["ANSIBLE_PODMAN_EXECUTABLE"],
        ),
        "timeout": _timeout("ansible_timeout"),
    },
    "buildah": {
        "remote_addr": _remote_addr("container"),
        "remote_user": _remote_user(**_COMMON_USER),
        "timeout": _timeout("ansible_timeout"),
        **_paths(buildah_path="buildah"),
    },
    "kubectl": {
        "remote_addr": _remote_addr("pod"),
        "timeout": _timeout("ansible_timeout"),
        **_KUBECTL,
        **_paths(kubectl_path="kubectl"),
    },
    "lxc": {
        "remote_addr": _remote_addr("container", "ansible_lxc_host"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(lxc_attach_path="lxc-attach"),
    },
    "lxd": {
        "remote_addr": _remote_addr("instance", "ansible_lxd_host"),
        "remote": _option("Name of the LXD server.", "ansible_lxd_remote", default="local"),
        "project": _option("Name of the project.", "ansible_lxd_project"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(lxc_path="lxc"),
    },
    "incus": {
        "remote_addr": _remote_addr("instance", "ansible_incus_host"),
        "remote": _option("Name of the Incus server.", "ansible_incus_remote", default="local"),
        "project": _option("Name of the project.", "ansible_incus_project", default="default"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(incus_path="incus"),
    },
    "jail": {
        "remote_addr": _remote_addr("jail", "ansible_jail_host"),
        "remote_user": _remote_user("ansible_jail_user"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(jexec_path="/usr/sbin/jexec"),
    },
    "setns": {
        "remote_addr": _remote_addr("container, or pid of a process"),
        "remote_user": _remote_user(keyword="remote_user"),
        "kind": _option(
            "Kind of container: docker, lxc, lxd, machinectl or pid.", "mitogen_kind", default=""
        ),
        "timeout": _timeout("ansible_timeout"),
        **_paths(
            docker_path="docker",
            lxc_path="lxc",
            lxc_info_path="lxc-info",
            machinectl_path="machinectl",
            nsenter_path="nsenter",
        ),
    },
    "machinectl": {
        "remote_addr": _remote_addr("machine"),
        "remote_user": _remote_user(keyword="remote_user"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(machinectl_path="machinectl", nsenter_path="nsenter"),
    },
    "sudo": _account("sudo"),
    "su": _account("su"),
    "doas": _account("doas"),
}

#: Options of the stock `local` plugin, which runs the commands of these kinds.
_OF_LOCAL = {
    "become_success_timeout": _option(
        "Seconds to wait for the result of become.",
        "ansible_local_become_success_timeout",
        default=10,
        type="int",
    ),
    "become_strip_preamble": _option(
        "Remove the output of become.",
        "ansible_local_become_strip_preamble",
        default=True,
        type="bool",
    ),
}


def _line(name: str, option: Option) -> str:
    entry: dict[str, Any] = {"description": option.description, "type": option.type}
    if option.default is not None:
        entry["default"] = option.default
    entry["vars"] = [{"name": each} for each in option.vars]
    entry["env"] = [{"name": each} for each in option.env]
    entry["ini"] = [{"section": section, "key": key} for section, key in option.ini]
    entry["cli"] = [{"name": option.cli}] if option.cli else []
    entry["keyword"] = [{"name": option.keyword}] if option.keyword else []
    given = {key: value for key, value in entry.items() if value != []}
    return "  %s: %s" % (name, json.dumps(given))


def documentation(kind: str) -> str:
    """
    Return the options part of a plugin's DOCUMENTATION: YAML.

    :param kind: a key of KINDS
    """
    given = {**KINDS[kind], **_OF_LOCAL}
    lines = [_line(name, option) for name, option in given.items()]
    own = [*PIPELINING.strip().splitlines(), *VIA.strip().splitlines()]
    return "\n".join(["options:", *lines, *("  " + line for line in own)]) + "\n"
