"""
The options of connection plugins that Ansible itself has no plugin for: a table, and Ansible's
DOCUMENTATION made of it.

Rules
    1. Where a collection has a plugin for the same, names, variables and defaults are that one's:
       community.docker.docker, containers.podman.podman and .buildah, kubernetes.core.kubectl,
       community.general.lxc, .lxd, .incus and .jail. None of them has to be installed.
    2. As text, a line for each option, since each worker parses it.

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

#: Modules by standard input unless told otherwise; put among a stock plugin's options, too.
PIPELINING = """
pipelining:
  description: Send modules by the standard input of an interpreter, rather than copy them first.
  type: boolean
  default: true
  env: [{name: ANSIBLE_PIPELINING}, {name: ANSIBLE_SSH_PIPELINING}]
  ini:
    - {section: defaults, key: pipelining}
    - {section: connection, key: pipelining}
    - {section: ssh_connection, key: pipelining}
  vars: [{name: ansible_pipelining}, {name: ansible_ssh_pipelining}]
"""
#: Likewise.
VIA = """
mitogen_via:
  description:
    - Inventory name of the host that this one is reached through, by that host's own connection.
    - C(user@name) becomes that user there first, C(method:user@name) by that become method.
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


def _where(what: str, *variables: str) -> Option:
    variables = ("inventory_hostname", "ansible_host", *variables)
    return _option("Name of the %s." % what, *variables, default="inventory_hostname")


def _who(*variables: str, **where: Any) -> Option:
    return _option("The account in there.", "ansible_user", *variables, **where)


def _timeout(*variables: str, **where: Any) -> Option:
    given = {"env": ["ANSIBLE_TIMEOUT"], "ini": [("defaults", "timeout")], "cli": "timeout"}
    given.update(where)
    text = "Seconds until it must be connected, besides a minute for an interpreter to start."
    return _option(text, *variables, default=10, type="int", **given)  # type: ignore[arg-type]


#: Whoever is meant where nothing is said of this kind.
_ANYWHERE = {
    "env": ["ANSIBLE_REMOTE_USER"],
    "ini": [("defaults", "remote_user")],
    "cli": "user",
    "keyword": "remote_user",
}

_KUBECTL: dict[str, Option] = {
    "kubectl_pod": _option(
        "Name of the pod; the host's address otherwise.",
        "ansible_kubectl_pod",
        default="",
        env=["K8S_AUTH_POD"],
    ),
    "kubectl_container": _option(
        "Which of the pod's containers.",
        "ansible_kubectl_container",
        default="",
        env=["K8S_AUTH_CONTAINER"],
    ),
    "kubectl_namespace": _option(
        "The pod's namespace.",
        "ansible_kubectl_namespace",
        default="",
        env=["K8S_AUTH_NAMESPACE"],
    ),
    "kubectl_extra_args": _option(
        "More arguments of kubectl, before its command.",
        "ansible_kubectl_extra_args",
        default="",
        env=["K8S_AUTH_EXTRA_ARGS"],
    ),
    "kubectl_local_env_vars": _option(
        "What kubectl has in its environment besides.",
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
        "Context of that configuration.",
        "ansible_kubectl_context",
        default="",
        env=["K8S_AUTH_CONTEXT"],
    ),
    "kubectl_host": _option(
        "URL of the API's server.",
        "ansible_kubectl_host",
        "ansible_kubectl_server",
        default="",
        env=["K8S_AUTH_HOST", "K8S_AUTH_SERVER"],
    ),
    "kubectl_username": _option(
        "Who asks it.",
        "ansible_kubectl_username",
        "ansible_kubectl_user",
        default="",
        env=["K8S_AUTH_USERNAME"],
    ),
    "kubectl_password": _option(
        "Its password; ps shows it.",
        "ansible_kubectl_password",
        default="",
        env=["K8S_AUTH_PASSWORD"],
    ),
    "kubectl_token": _option(
        "A token of the API; ps shows it.",
        "ansible_kubectl_token",
        "ansible_kubectl_api_key",
        env=["K8S_AUTH_TOKEN", "K8S_AUTH_API_KEY"],
    ),
    "client_cert": _option(
        "Path of a certificate.",
        "ansible_kubectl_cert_file",
        "ansible_kubectl_client_cert",
        default="",
        env=["K8S_AUTH_CERT_FILE"],
    ),
    "client_key": _option(
        "Path of its key.",
        "ansible_kubectl_key_file",
        "ansible_kubectl_client_key",
        default="",
        env=["K8S_AUTH_KEY_FILE"],
    ),
    "ca_cert": _option(
        "Path of the authority's certificate.",
        "ansible_kubectl_ssl_ca_cert",
        "ansible_kubectl_ca_cert",
        default="",
        env=["K8S_AUTH_SSL_CA_CERT"],
    ),
    "validate_certs": _option(
        "Whether the server's certificate is checked.",
        "ansible_kubectl_verify_ssl",
        "ansible_kubectl_validate_certs",
        default="",
        env=["K8S_AUTH_VERIFY_SSL"],
    ),
}


def _paths(**programs: str) -> dict[str, Option]:
    """Return an option for the path of each program: `name="program"`, variable `mitogen_name`."""
    text = "The program %s."
    return {
        name: _option(text % program, "mitogen_" + name, default=program)
        for name, program in programs.items()
    }


def _account(name: str) -> dict[str, Option]:
    """Return the options of a connection to another account of the same host."""
    return {
        "remote_user": _option(
            "The account.",
            "ansible_user",
            "ansible_%s_user" % name,
            default="root",
            keyword="remote_user",
            cli="user",
        ),
        "password": _option(
            "What %s asks for." % name,
            "ansible_password",
            "ansible_%s_pass" % name,
            keyword="password",
        ),
        "%s_exe" % name: _option("The program.", "ansible_%s_exe" % name, default=name),
        "%s_flags" % name: _option("Its options.", "ansible_%s_flags" % name, default=""),
        "timeout": _timeout("ansible_timeout"),
    }


#: Kind to its options.
KINDS: dict[str, dict[str, Option]] = {
    "docker": {
        "remote_addr": _where("container", "ansible_docker_host"),
        "remote_user": _who("ansible_docker_user", **_ANYWHERE),
        "docker_extra_args": _option(
            "More arguments of docker, before its command.",
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
            "What is in the environment there besides.",
            "ansible_docker_extra_env",
            type="dict",
        ),
        "working_dir": _option(
            "The working directory there.",
            "ansible_docker_working_dir",
            env=["ANSIBLE_DOCKER_WORKING_DIR"],
            ini=[("docker_connection", "working_dir")],
        ),
        "privileged": _option(
            "Whether with all privileges.",
            "ansible_docker_privileged",
            default=False,
            type="bool",
            env=["ANSIBLE_DOCKER_PRIVILEGED"],
            ini=[("docker_connection", "privileged")],
        ),
        **_paths(docker_path="docker"),
    },
    "podman": {
        "remote_addr": _where("container", "ansible_podman_host"),
        "remote_user": _who(**_ANYWHERE),
        "podman_extra_args": _option(
            "More arguments of podman, before its command.",
            "ansible_podman_extra_args",
            default="",
            env=["ANSIBLE_PODMAN_EXTRA_ARGS"],
            ini=[("defaults", "podman_extra_args")],
        ),
        "podman_executable": _option(
            "The program.",
            "ansible_podman_executable",
            default="podman",
            env=["ANSIBLE_PODMAN_EXECUTABLE"],
        ),
        "timeout": _timeout("ansible_timeout"),
    },
    "buildah": {
        "remote_addr": _where("container"),
        "remote_user": _who(**_ANYWHERE),
        "timeout": _timeout("ansible_timeout"),
        **_paths(buildah_path="buildah"),
    },
    "kubectl": {
        "remote_addr": _where("pod"),
        "timeout": _timeout("ansible_timeout"),
        **_KUBECTL,
        **_paths(kubectl_path="kubectl"),
    },
    "lxc": {
        "remote_addr": _where("container", "ansible_lxc_host"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(lxc_attach_path="lxc-attach"),
    },
    "lxd": {
        "remote_addr": _where("instance", "ansible_lxd_host"),
        "remote": _option("The server.", "ansible_lxd_remote", default="local"),
        "project": _option("The project.", "ansible_lxd_project"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(lxc_path="lxc"),
    },
    "incus": {
        "remote_addr": _where("instance", "ansible_incus_host"),
        "remote": _option("The server.", "ansible_incus_remote", default="local"),
        "project": _option("The project.", "ansible_incus_project", default="default"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(incus_path="incus"),
    },
    "jail": {
        "remote_addr": _where("jail", "ansible_jail_host"),
        "remote_user": _who("ansible_jail_user"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(jexec_path="/usr/sbin/jexec"),
    },
    "setns": {
        "remote_addr": _where("container, or number of a process"),
        "remote_user": _who(keyword="remote_user"),
        "kind": _option("docker, lxc, lxd, machinectl or pid.", "mitogen_kind", default=""),
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
        "remote_addr": _where("machine"),
        "remote_user": _who(keyword="remote_user"),
        "timeout": _timeout("ansible_timeout"),
        **_paths(machinectl_path="machinectl", nsenter_path="nsenter"),
    },
    "sudo": _account("sudo"),
    "su": _account("su"),
    "doas": _account("doas"),
}

#: What the stock `local` plugin asks for, whose way to run a command these have.
_OF_LOCAL = {
    "become_success_timeout": _option(
        "Seconds to wait for become.",
        "ansible_local_become_success_timeout",
        default=10,
        type="int",
    ),
    "become_strip_preamble": _option(
        "Leave out what become prints.",
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
    Return what is said of the options of a plugin, for its DOCUMENTATION: YAML.

    :param kind: a key of KINDS
    """
    given = {**KINDS[kind], **_OF_LOCAL}
    lines = [_line(name, option) for name, option in given.items()]
    own = [*PIPELINING.strip().splitlines(), *VIA.strip().splitlines()]
    return "\n".join(["options:", *lines, *("  " + line for line in own)]) + "\n"
