"""
The registry of connection methods: maps the name of a Router method to the module that implements
it. A module is imported when its method is first used.

Threads: any.
"""

from __future__ import annotations

from mitogen import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mitogen.methods.connection import Connection

__all__ = ["METHODS", "get_connection_class"]

#: Connection methods: name of the Router method to the name of its module.
METHODS = {
    "local": "mitogen.methods.connection",
    "ssh": "mitogen.ssh",
    "sudo": "mitogen.sudo",
    "su": "mitogen.su",
    "doas": "mitogen.doas",
    "fork": "mitogen.fork",
    "setns": "mitogen.setns",
    "command": "mitogen.methods.containers",
    "docker": "mitogen.docker",
    "podman": "mitogen.podman",
    "buildah": "mitogen.buildah",
    "kubectl": "mitogen.kubectl",
    "lxc": "mitogen.lxc",
    "lxd": "mitogen.lxd",
    "incus": "mitogen.incus",
    "jail": "mitogen.jail",
}


def get_connection_class(name: str) -> type[Connection]:
    """
    Return the Connection class of a connection method.

    :param str name: "ssh", "sudo", ...
    :raises ValueError: the method doesn't exist
    """
    if name not in METHODS:
        raise ValueError(
            "unknown connection method %r; known are: %s" % (name, ", ".join(sorted(METHODS)))
        )
    found: type[Connection] = core.import_module(METHODS[name]).Connection
    return found
