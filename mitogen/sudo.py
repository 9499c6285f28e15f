"""
Connection method `sudo`: another account of this machine, by sudo(8).

sudo gets a pipe as standard input and output, so everything can be sent at once, and a separate
terminal for its password prompt. The prompt's text is unique and secret: it is passed in the
environment, which other accounts can't read, unlike the command line.
"""

from __future__ import annotations

import os
import re

from mitogen.bootstrap.handshake import LoginError, Rule
from mitogen.core import StreamError
from mitogen.methods import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn, Union

    from mitogen.tree.router import Router

    Path = Union[str, "os.PathLike[str]"]


__all__ = ["Connection", "Options", "PasswordError"]

password_incorrect_msg = "sudo password is incorrect"
password_required_msg = "sudo password is required"

#: The prompt of a PAM module whose text sudo does not replace by ours: SUDO_PROMPT replaces only
#: the usual ones.
OTHER_PROMPT = rb"(password|passcode|passphrase|verification code)[^\r\n]*: *$"

#: sudo's options allowed in sudo_args: (short, long, dest, takes a value). Options without a dest
#: are accepted and dropped: they affect the prompt, which mitogen controls.
SUDO_OPTIONS = (
    ("-C", "--close-from", "close_from", True),
    ("-E", "--preserve-env", "preserve_env", False),
    ("-H", "--set-home", "set_home", False),
    ("-i", "--login", "login", False),
    ("-g", "--group", "group", True),
    ("-h", "--host", "host", True),
    ("-k", "--reset-timestamp", "reset_timestamp", False),
    ("-n", "--non-interactive", None, False),
    ("-P", "--preserve-groups", "preserve_groups", False),
    ("-p", "--prompt", None, True),
    ("-R", "--chroot", "chroot", True),
    ("-D", "--chdir", "chdir", True),
    ("-r", "--role", "selinux_role", True),
    ("-S", "--stdin", None, False),
    ("-t", "--type", "selinux_type", True),
    ("-u", "--user", "username", True),
)


class PasswordError(LoginError):
    """sudo prompted for a password, and it was missing or wrong."""


def parse_sudo_args(args: Iterable[object]) -> dict[str, Any]:
    """
    Return a dict of the values set by sudo_args, by the names in SUDO_OPTIONS.

    :param list args: str, as on sudo's command line
    :raises StreamError: an option does not exist in sudo, or an argument is not an option
    """
    import optparse

    class Parser(optparse.OptionParser):
        def error(self, text: str) -> NoReturn:
            raise StreamError("invalid sudo_args=%r: %s", args, text)

    parser = Parser(add_help_option=False)
    for short, long, dest, has_value in SUDO_OPTIONS:
        parser.add_option(
            short, long, dest=dest or "ignored", action="store" if has_value else "store_true"
        )
    values, rest = parser.parse_args([str(arg) for arg in args])
    if rest:
        raise StreamError("invalid sudo_args=%r: %r is not an option", args, rest[0])
    found = dict(vars(values))
    found.pop("ignored", None)
    return {name: value for name, value in found.items() if value is not None}


class Options(connection.LocalOptions):
    """
    In addition to connection.Options:

    :param str username: account to switch to; default root
    :param str sudo_path: path of the program
    :param str password: password of the calling account, or the one that sudoers requires
    :param bool preserve_env: -E
    :param bool set_home: -H
    :param bool login: -i
    :param str selinux_role: -r
    :param str selinux_type: -t
    :param list sudo_args: arguments as on sudo's command line; they take precedence
    """

    def __init__(
        self,
        username: str | None = None,
        sudo_path: Path = "sudo",
        password: str | None = None,
        preserve_env: bool | None = None,
        set_home: bool | None = None,
        sudo_args: Iterable[str] | None = None,
        login: bool | None = None,
        selinux_role: str | None = None,
        selinux_type: str | None = None,
        **kwargs: Any,
    ) -> None:
        connection.Options.__init__(self, **kwargs)
        given = parse_sudo_args(sudo_args or ())
        self.sudo_path = sudo_path
        self.password = connection.checked_password(password)
        self.username = given.pop("username", None) or username or "root"
        self.preserve_env = given.pop("preserve_env", None) or preserve_env
        self.set_home = given.pop("set_home", None) or set_home
        self.login = given.pop("login", None) or login
        self.selinux_role = given.pop("selinux_role", None) or selinux_role
        self.selinux_type = given.pop("selinux_type", None) or selinux_type
        #: Other values set by sudo_args.
        self.other = given


class Connection(connection.AccountConnection):
    """A sudo process."""

    options_class = Options
    tty = True

    def __init__(self, options: Options, router: Router) -> None:
        connection.Connection.__init__(self, options, router)
        self.prompt = "[mitogen %s] password: " % os.urandom(16).hex()

    @property
    def environ(self) -> dict[str, str]:  # type: ignore[override]
        """Changes to sudo's environment: English messages, and the prompt."""
        return {"LC_ALL": "C", "SUDO_PROMPT": self.prompt}

    def argv(self) -> list[str]:
        options = self.options
        argv = [str(options.sudo_path), "-u", options.username]
        for flag, on in (
            ("-E", options.preserve_env),
            ("-H", options.set_home),
            ("-i", options.login),
        ):
            if on:
                argv.append(flag)
        for flag, value in (("-r", options.selinux_role), ("-t", options.selinux_type)):
            if value:
                argv += [flag, value]
        for short, _, dest, has_value in SUDO_OPTIONS:
            if dest in options.other:
                argv += [short, options.other[dest]] if has_value else [short]
        return argv + ["--"] + self.guarded_command()

    def rules(self) -> dict[str, list[Rule]]:
        missing = PasswordError, password_required_msg
        again = PasswordError, password_incorrect_msg
        prompt = Rule(re.escape(self.prompt.strip().encode()) + rb" *", "password", missing, again)
        module = Rule(OTHER_PROMPT, "password", missing, again, unusual=True)
        return {"tty": [prompt, module], "pipe": [prompt]}

    def answers(self) -> dict[str, str | None]:
        return {"password": self.options.password}

    def default_name(self) -> str:
        return "sudo.%s" % self.options.username
