"""
Connection method `ssh`: OpenSSH's client, ssh(1), with its own configuration.

Unless an interpreter is named, the remote one is found in the same round trip.

The password is sent only for the host and the account that were named: prompts on ssh's terminal
may also be those of a jump host. ssh's prompts name both. If they differ from the options, ssh
itself is asked to which host and account its configuration leads (`ssh -G`).
"""

from __future__ import annotations

import os
import re

from mitogen.bootstrap import handshake
from mitogen.bootstrap.handshake import LoginError, Rule
from mitogen.methods import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence
    from typing import Any, Union

    from mitogen.bootstrap.handshake import Prompt
    from mitogen.tree.router import Router

    Path = Union[str, "os.PathLike[str]"]

    Command = Union[Path, Sequence[str]]


__all__ = ["Connection", "HostKeyError", "Options", "PasswordError"]

auth_incorrect_msg = "SSH authentication is incorrect"
password_incorrect_msg = "SSH password is incorrect"
password_required_msg = "SSH password was requested, but none specified"
hostkey_config_msg = (
    "SSH requested permission to accept unknown host key, but check_host_keys=ignore. "
    "This is likely due to ssh_args=  conflicting with check_host_keys=. Please correct your "
    "configuration."
)
hostkey_failed_msg = (
    "Host key checking is enabled, and SSH reported an unrecognized or mismatching host key."
)
hostkey_hint = "Verify the key and add it to known_hosts, or see check_host_keys="


asker_msg = (
    "SSH requested the password of %s, which is not the host and account of this connection; if it "
    "is a jump host, connect to it by itself, and give it as via="
)

#: The beginning of prompts of keyboard-interactive logins. The server chooses the rest.
_ASKER = rb"(?:\A|[\r\n])\(([^()\s]+@[^()\s]+)\) "
#: ssh's own prompts: for a key's passphrase, and for a password.
_PASSPHRASE = re.compile(r"enter passphrase for (?:\S+ )?key '?([^'\r\n]*)'?: *$", re.IGNORECASE)
_PASSWORD = re.compile(r"(\S+@\S+)'s password: *$", re.IGNORECASE)
#: Numbers of bytes of the account, the host and the path of the key that ssh's prompts show.
ACCOUNT_SHOWN, HOST_SHOWN, KEY_SHOWN = 30, 128, 100


class PasswordError(LoginError):
    """A password was missing or wrong, or no key was accepted."""


class HostKeyError(LoginError):
    """The server's host key is unknown, or differs from the known one."""


class Options(connection.Options):
    """
    In addition to connection.Options:

    :param str hostname: host name, address, or alias in ssh's configuration
    :param str username: user name; None for the one in ssh's configuration
    :param ssh_path: str, path or list: the client
    :param int port: port; None for the one in ssh's configuration
    :param str check_host_keys: "enforce" (accept known keys only), "accept" (add unknown ones to
        known_hosts), "ignore" (no check at all); True and False of old programs: enforce, ignore
    :param str password: for password and keyboard-interactive logins
    :param identity_file: str or path: a private key
    :param bool identities_only: with a password or identity_file, offer no other keys
    :param bool compression: let ssh compress
    :param list ssh_args: more arguments for the client, str
    :param bool keepalive_enabled: close a link that does not answer
    :param int keepalive_interval: seconds
    :param int keepalive_count: number of keepalives that may stay unanswered
    :param int ssh_debug_level: 0 to 3: number of `-v` options
    """

    def __init__(
        self,
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
        **kwargs: Any,
    ) -> None:
        connection.Options.__init__(self, **kwargs)
        old_names: dict[Any, Any] = {True: "enforce", False: "ignore"}
        check_host_keys = old_names.get(check_host_keys, check_host_keys)
        if check_host_keys not in ("enforce", "accept", "ignore"):
            raise ValueError(
                "check_host_keys=%r must be 'enforce', 'accept' or 'ignore'" % (check_host_keys,)
            )
        if str(hostname).startswith("-") or not hostname:
            raise ValueError("hostname=%r is not a host name" % (hostname,))
        self.hostname = hostname
        self.username = username
        self.ssh_path = ssh_path
        self.port = port
        self.check_host_keys = check_host_keys
        self.password = connection.checked_password(password)
        self.identity_file = identity_file
        self.identities_only = identities_only
        self.compression = compression
        self.ssh_args = list(ssh_args or ())
        self.keepalive_enabled = keepalive_enabled
        self.keepalive_count = keepalive_count
        self.keepalive_interval = keepalive_interval
        self.ssh_debug_level = ssh_debug_level or 0


class Connection(connection.Connection):
    """An ssh client. Passwords are sent to a separate terminal, so standard input stays free."""

    options_class = Options
    err = True
    is_client = True

    def __init__(self, options: Options, router: Router) -> None:
        connection.Connection.__init__(self, options, router)
        self.tty = options.password is not None or options.check_host_keys == "accept"
        if options.keepalive_enabled:
            self.keepalive_interval = options.keepalive_interval
            self.keepalive_count = options.keepalive_count

    def argv(self) -> list[str]:
        return [*self._client(), "--", str(self.options.hostname), *self.get_boot_command()]

    def _client(self) -> list[str]:
        """Return the client with its options."""
        options = self.options
        path = options.ssh_path
        argv = [str(path)] if isinstance(path, (str, bytes, os.PathLike)) else list(path)
        if options.ssh_debug_level:
            argv.append("-" + "v" * min(3, options.ssh_debug_level))
        if options.username:
            argv += ["-l", options.username]
        if options.port is not None:
            argv += ["-p", str(options.port)]
        if options.identity_file:
            argv += ["-i", os.path.expanduser(os.fspath(options.identity_file))]
        # Not -T: a program in place of ssh may know ssh's usual options only.
        argv += ["-o", "RequestTTY no"]
        for setting in self._settings():
            argv += ["-o", setting]
        argv += [str(arg) for arg in options.ssh_args]
        # If this process dies meanwhile, ssh must not wait for ever. ssh uses the first value
        # given.
        return [*argv, "-o", "ConnectTimeout %d" % max(1, options.connect_timeout)]

    def _settings(self) -> Iterator[str]:
        """Yield the arguments of `-o`: see ssh_config(5)."""
        options = self.options
        if options.identities_only and (options.identity_file or options.password):
            yield "IdentitiesOnly yes"
        yield "Compression %s" % ("yes" if options.compression else "no")
        if options.keepalive_enabled:
            yield "ServerAliveInterval %d" % options.keepalive_interval
            yield "ServerAliveCountMax %d" % options.keepalive_count
        if options.password is None:
            if options.check_host_keys != "accept":
                yield "BatchMode yes"
        else:
            yield "NumberOfPasswordPrompts 1"
        if options.check_host_keys == "enforce":
            yield "StrictHostKeyChecking yes"
        elif options.check_host_keys == "accept":
            yield "StrictHostKeyChecking ask"
        else:
            yield "StrictHostKeyChecking no"
            yield "UserKnownHostsFile /dev/null"
            yield "GlobalKnownHostsFile /dev/null"

    def get_boot_command(self) -> list[str]:
        return handshake.remote_command(self.options.python_path, self.options.remote_name)

    def rules(self) -> dict[str, list[Rule]]:
        given = self.options.password is not None
        denied = password_incorrect_msg if given else auth_incorrect_msg
        prompts = [
            Rule(_ASKER, asker=True),
            Rule(
                rb"are you sure you want to continue connecting[^\n]*\? ?",
                answer="hostkey",
                missing=(HostKeyError, hostkey_config_msg),
            ),
            Rule(
                rb"(password|passphrase[^\n]*|verification code): *$",
                answer="password",
                missing=(PasswordError, password_required_msg),
                again=(PasswordError, password_incorrect_msg),
            ),
        ]
        unknown_key = hostkey_failed_msg + "\n" + hostkey_hint
        errors = [
            Rule(rb"host key verification failed", error=(HostKeyError, unknown_key)),
            Rule(
                rb"permission denied \([^\n)]*(password|keyboard-interactive)[^\n)]*\)",
                error=(PasswordError, denied if given else password_required_msg),
            ),
            Rule(rb"permission denied \([^\n)]*\)", error=(PasswordError, denied)),
            Rule(rb"too many authentication failures", error=(PasswordError, auth_incorrect_msg)),
        ]
        return {"tty": prompts + errors, "err": errors}

    def answers(self) -> dict[str, str | None]:
        accept = self.options.check_host_keys == "accept"
        return {"password": self.options.password, "hostkey": "yes" if accept else None}

    def judge(self, prompt: Prompt) -> Any:
        options = self.options
        if prompt.answer != "password":
            return True
        key = not prompt.asker and _PASSPHRASE.search(prompt.line)
        if key:
            return lambda: self._judge_key(key.group(1))
        named = not prompt.asker and _PASSWORD.search(prompt.line)
        asker = prompt.asker or (named and named.group(1)) or ""
        account, _, host = asker.rpartition("@")
        if host == str(options.hostname).lower()[:HOST_SHOWN]:
            if account == (options.username or account)[:ACCOUNT_SHOWN]:
                return True
        return lambda: self._judge_asker(account, host)

    def _judge_key(self, path: str) -> PasswordError | None:
        """Return the error if ssh requests the passphrase of a key that was not named."""
        own = self.options.identity_file
        if not own or os.path.expanduser(os.fspath(own))[:KEY_SHOWN] == path:
            return None
        return PasswordError("%s", "SSH requested the passphrase of another key: %s" % path)

    def _judge_asker(self, account: str, host: str) -> PasswordError | None:
        """
        Return the error if the prompt is not that of the host to which ssh's configuration leads.
        """
        found = self._configuration()
        if host:
            own = found.get("user", "")[:ACCOUNT_SHOWN], found.get("hostname", "").lower()
            if (account, host) == (own[0], own[1][:HOST_SHOWN]):
                return None
            return PasswordError("%s", asker_msg % ("%s@%s" % (account, host)))
        # Older versions of ssh don't name the host in prompts of keyboard-interactive logins.
        if "hostname" in found and "proxyjump" not in found and "proxycommand" not in found:
            return None
        return PasswordError("%s", asker_msg % "an unknown host")

    def _configuration(self) -> dict[str, str]:
        """Return ssh's configuration for the host: see `-G` in ssh(1)."""
        import subprocess

        done = subprocess.run(
            [*self._client(), "-G", "--", str(self.options.hostname)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=self.options.connect_timeout,
        )
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        found = dict(line.split(" ", 1) for line in lines if " " in line)
        return {k: v for k, v in found.items() if v != "none" or not k.startswith("proxy")}

    def destination(self) -> Hashable:
        return self.options.hostname, self.options.port

    def default_name(self) -> str:
        port = ":%s" % self.options.port if self.options.port else ""
        return "ssh.%s%s" % (self.options.hostname, port)
