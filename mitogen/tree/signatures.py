"""
Signatures of the connection methods, for type checkers and editors; never imported at run time.

Router's methods are generated from parent.METHODS at import, which type checkers cannot follow.
tests/unit/tree/test_signatures.py compares this file to the actual Options classes.

Rules
    1. A method lists its own options first, in the order of its Options class, then `name`, `via`
       and the options common to all methods.

Threads: none; no code runs here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypedDict, Union

    from typing_extensions import Unpack

    from mitogen.bootstrap.handshake import PythonPath
    from mitogen.core import ExternalContext

    Path = Union[str, "os.PathLike[str]"]
    #: A program: its path, or its path and arguments.
    Command = Union[Path, Sequence[str]]
    Prompts = Sequence[tuple[str | bytes, str | None, str]]

    class Common(TypedDict, total=False):
        """Options common to all connection methods: see connection.Options."""

        remote_name: str | None
        python_path: PythonPath
        debug: bool
        connect_timeout: float | None
        profiling: bool
        unidirectional: bool
        max_message_size: int | None


__all__ = ["Methods"]

#: Type of a context to start from, and of a method's result.
V = TypeVar("V")
T = TypeVar("T")


class Methods(Generic[V, T]):
    """The connection methods; parent.METHODS lists their names."""

    def local(
        self, *, name: str | None = None, via: V | None = None, **kwargs: Unpack[Common]
    ) -> T:
        """Start a child as a subprocess: see connection.LocalOptions."""
        raise NotImplementedError

    def ssh(
        self,
        *,
        hostname: str,
        username: str | None = None,
        ssh_path: Command = "ssh",
        port: int | None = None,
        check_host_keys: str | bool = "enforce",
        password: str | None = None,
        identity_file: Path | None = None,
        compression: bool = True,
        ssh_args: Iterable[str] | None = None,
        keepalive_enabled: bool = True,
        keepalive_count: int = 3,
        keepalive_interval: int = 15,
        identities_only: bool = True,
        ssh_debug_level: int | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by ssh(1): see ssh.Options."""
        raise NotImplementedError

    def sudo(
        self,
        *,
        username: str | None = None,
        sudo_path: Path = "sudo",
        password: str | None = None,
        preserve_env: bool | None = None,
        set_home: bool | None = None,
        sudo_args: Iterable[str] | None = None,
        login: bool | None = None,
        selinux_role: str | None = None,
        selinux_type: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by sudo(8): see sudo.Options."""
        raise NotImplementedError

    def su(
        self,
        *,
        username: str = "root",
        password: str | None = None,
        su_path: Path = "su",
        password_prompt: str = "password:",
        incorrect_prompts: Iterable[str] = (
            "su: sorry",
            "su: authentication failure",
            "su: incorrect password",
            "su: permission denied",
        ),
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by su(1): see su.Options."""
        raise NotImplementedError

    def doas(
        self,
        *,
        username: str = "root",
        password: str | None = None,
        doas_path: Path = "doas",
        password_prompt: str = "password:",
        incorrect_prompts: Iterable[str] = (
            "doas: authentication failed",
            "doas: authorization failed",
        ),
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by doas(1): see doas.Options."""
        raise NotImplementedError

    def fork(
        self,
        *,
        on_fork: Callable[[], object] | None = None,
        on_start: Callable[[ExternalContext], object] | None = None,
        debug: bool = False,
        profiling: bool = False,
        unidirectional: bool = False,
        max_message_size: int | None = None,
        name: str | None = None,
        via: V | None = None,
    ) -> T:
        """Start a child as a copy of this process: see fork.Options."""
        raise NotImplementedError

    def setns(
        self,
        *,
        container: str | int,
        kind: str,
        username: str = "root",
        docker_path: Command = "docker",
        lxc_path: Command = "lxc",
        lxc_info_path: Command = "lxc-info",
        machinectl_path: Command = "machinectl",
        nsenter_path: Command = "nsenter",
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child in the namespaces of a process: see setns.Options."""
        raise NotImplementedError

    def command(
        self,
        *,
        argv: Sequence[Any] = (),
        prompts: Prompts = (),
        password: str | None = None,
        tty: bool | str = False,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Any,
    ) -> T:
        """Start a child by any program that runs a command: see containers.Options."""
        raise NotImplementedError

    def docker(
        self,
        *,
        container: str | None = None,
        image: str | None = None,
        docker_path: Command = "docker",
        docker_args: Sequence[str] | None = None,
        username: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by docker(1): see docker.Options."""
        raise NotImplementedError

    def podman(
        self,
        *,
        container: str,
        podman_path: Command = "podman",
        username: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by podman(1): see podman.Options."""
        raise NotImplementedError

    def buildah(
        self,
        *,
        container: str,
        buildah_path: Command = "buildah",
        username: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by buildah(1): see buildah.Options."""
        raise NotImplementedError

    def kubectl(
        self,
        *,
        pod: str,
        kubectl_path: Command = "kubectl",
        kubectl_args: Sequence[str] | None = None,
        container: str | None = None,
        namespace: str | None = None,
        context: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by kubectl(1): see kubectl.Options."""
        raise NotImplementedError

    def lxc(
        self,
        *,
        container: str,
        lxc_attach_path: Command = "lxc-attach",
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by lxc-attach(1): see lxc.Options."""
        raise NotImplementedError

    def lxd(
        self,
        *,
        container: str,
        lxc_path: Command = "lxc",
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by LXD's lxc(1): see lxd.Options."""
        raise NotImplementedError

    def incus(
        self,
        *,
        container: str,
        incus_path: Command = "incus",
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by incus(1): see incus.Options."""
        raise NotImplementedError

    def jail(
        self,
        *,
        container: str,
        jexec_path: Command = "/usr/sbin/jexec",
        username: str | None = None,
        name: str | None = None,
        via: V | None = None,
        **kwargs: Unpack[Common],
    ) -> T:
        """Start a child by jexec(8): see jail.Options."""
        raise NotImplementedError
