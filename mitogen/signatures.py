"""
What the connection methods take, written out for type checkers and editors: nothing imports it.

Router makes its methods from parent.METHODS when it is imported, which no type checker follows.
tests/unit/test_signatures.py holds this against the Options that are really there.

Rules
    1. A method has its own options first, as its Options class has them, then `name`, `via` and the
       options that every method takes.

No code runs here.
"""

from typing import Generic, TypeVar

MYPY = False
if MYPY:
    import os
    from typing import Any, Callable, Iterable, Optional, Sequence, Tuple, TypedDict, Union

    from typing_extensions import Unpack

    from mitogen.core import ExternalContext
    from mitogen.handshake import PythonPath

    Path = Union[str, "os.PathLike[str]"]
    #: A program: its path, or that and arguments.
    Command = Union[Path, Sequence[str]]
    Prompts = Sequence[Tuple[Union[str, bytes], Optional[str], str]]

    class Common(TypedDict, total=False):
        """Options of every connection method: see connect.Options."""

        remote_name: Optional[str]
        python_path: PythonPath
        debug: bool
        connect_timeout: Optional[float]
        profiling: bool
        unidirectional: bool
        max_message_size: Optional[int]


__all__ = ["Methods"]

#: A context to start from, and what a method returns.
V = TypeVar("V")
T = TypeVar("T")


class Methods(Generic[V, T]):
    """The connection methods; parent.METHODS has their names."""

    def local(
        self, *, name: "Optional[str]" = None, via: "Optional[V]" = None, **kwargs: "Unpack[Common]"
    ) -> "T":
        """Start a child as a subprocess: see connect.LocalOptions."""
        raise NotImplementedError

    def ssh(
        self,
        *,
        hostname: "str",
        username: "Optional[str]" = None,
        ssh_path: "Command" = "ssh",
        port: "Optional[int]" = None,
        check_host_keys: "Union[str, bool]" = "enforce",
        password: "Optional[str]" = None,
        identity_file: "Optional[Path]" = None,
        compression: "bool" = True,
        ssh_args: "Optional[Iterable[str]]" = None,
        keepalive_enabled: "bool" = True,
        keepalive_count: "int" = 3,
        keepalive_interval: "int" = 15,
        identities_only: "bool" = True,
        ssh_debug_level: "Optional[int]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by ssh(1): see ssh.Options."""
        raise NotImplementedError

    def sudo(
        self,
        *,
        username: "Optional[str]" = None,
        sudo_path: "Path" = "sudo",
        password: "Optional[str]" = None,
        preserve_env: "Optional[bool]" = None,
        set_home: "Optional[bool]" = None,
        sudo_args: "Optional[Iterable[str]]" = None,
        login: "Optional[bool]" = None,
        selinux_role: "Optional[str]" = None,
        selinux_type: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by sudo(8): see sudo.Options."""
        raise NotImplementedError

    def su(
        self,
        *,
        username: "str" = "root",
        password: "Optional[str]" = None,
        su_path: "Path" = "su",
        password_prompt: "str" = "password:",
        incorrect_prompts: "Iterable[str]" = (
            "su: sorry",
            "su: authentication failure",
            "su: incorrect password",
            "su: permission denied",
        ),
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by su(1): see su.Options."""
        raise NotImplementedError

    def doas(
        self,
        *,
        username: "str" = "root",
        password: "Optional[str]" = None,
        doas_path: "Path" = "doas",
        password_prompt: "str" = "password:",
        incorrect_prompts: "Iterable[str]" = (
            "doas: authentication failed",
            "doas: authorization failed",
        ),
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by doas(1): see doas.Options."""
        raise NotImplementedError

    def fork(
        self,
        *,
        on_fork: "Optional[Callable[[], object]]" = None,
        on_start: "Optional[Callable[[ExternalContext], object]]" = None,
        debug: "bool" = False,
        profiling: "bool" = False,
        unidirectional: "bool" = False,
        max_message_size: "Optional[int]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
    ) -> "T":
        """Start a child as a copy of this process: see fork.Options."""
        raise NotImplementedError

    def setns(
        self,
        *,
        container: "Union[str, int]",
        kind: "str",
        username: "str" = "root",
        docker_path: "Command" = "docker",
        lxc_path: "Command" = "lxc",
        lxc_info_path: "Command" = "lxc-info",
        machinectl_path: "Command" = "machinectl",
        nsenter_path: "Command" = "nsenter",
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child in the namespaces of a process: see setns.Options."""
        raise NotImplementedError

    def command(
        self,
        *,
        argv: "Sequence[Any]" = (),
        prompts: "Prompts" = (),
        password: "Optional[str]" = None,
        tty: "Union[bool, str]" = False,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Any",
    ) -> "T":
        """Start a child by any program that runs a command: see containers.Options."""
        raise NotImplementedError

    def docker(
        self,
        *,
        container: "Optional[str]" = None,
        image: "Optional[str]" = None,
        docker_path: "Command" = "docker",
        docker_args: "Optional[Sequence[str]]" = None,
        username: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by docker(1): see docker.Options."""
        raise NotImplementedError

    def podman(
        self,
        *,
        container: "str",
        podman_path: "Command" = "podman",
        username: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by podman(1): see podman.Options."""
        raise NotImplementedError

    def buildah(
        self,
        *,
        container: "str",
        buildah_path: "Command" = "buildah",
        username: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by buildah(1): see buildah.Options."""
        raise NotImplementedError

    def kubectl(
        self,
        *,
        pod: "str",
        kubectl_path: "Command" = "kubectl",
        kubectl_args: "Optional[Sequence[str]]" = None,
        container: "Optional[str]" = None,
        namespace: "Optional[str]" = None,
        context: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by kubectl(1): see kubectl.Options."""
        raise NotImplementedError

    def lxc(
        self,
        *,
        container: "str",
        lxc_attach_path: "Command" = "lxc-attach",
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by lxc-attach(1): see lxc.Options."""
        raise NotImplementedError

    def lxd(
        self,
        *,
        container: "str",
        lxc_path: "Command" = "lxc",
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by LXD's lxc(1): see lxd.Options."""
        raise NotImplementedError

    def incus(
        self,
        *,
        container: "str",
        incus_path: "Command" = "incus",
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by incus(1): see incus.Options."""
        raise NotImplementedError

    def jail(
        self,
        *,
        container: "str",
        jexec_path: "Command" = "/usr/sbin/jexec",
        username: "Optional[str]" = None,
        name: "Optional[str]" = None,
        via: "Optional[V]" = None,
        **kwargs: "Unpack[Common]",
    ) -> "T":
        """Start a child by jexec(8): see jail.Options."""
        raise NotImplementedError
