"""
Connection method `su`: another account of this machine, by su(1).

su reads the password from the terminal on its standard input, which therefore is also the pipe to
the child: nothing is sent before the first stage has reported that it runs.
"""

from __future__ import annotations

from shlex import quote

from mitogen.bootstrap.handshake import LoginError
from mitogen.methods import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from typing import Any, Union

    from mitogen.bootstrap.handshake import Rule

    Path = Union[str, "os.PathLike[str]"]


__all__ = ["Connection", "Options", "PasswordError"]

password_incorrect_msg = "su password is incorrect"
password_required_msg = "su password is required"


class PasswordError(LoginError):
    """su prompted for a password, and it was missing or wrong."""


class Options(connection.AccountOptions):
    """
    In addition to connection.Options:

    :param str username: account to switch to; default root
    :param str password: password of that account
    :param str su_path: path of the program
    :param str password_prompt: text of the prompt, compared case-insensitively
    :param incorrect_prompts: texts of possible replies to a wrong password
    """

    def __init__(
        self,
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
        **kwargs: Any,
    ) -> None:
        connection.AccountOptions.__init__(
            self, username, password, password_prompt, incorrect_prompts, **kwargs
        )
        if self.username.startswith("-"):
            raise ValueError("username=%r is not an account name" % (username,))
        self.su_path = su_path


class Connection(connection.AccountConnection):
    """An su process."""

    options_class = Options
    stdio = "tty"
    eager = False
    environ = {"LC_ALL": "C"}

    def argv(self) -> list[str]:
        options = self.options
        command = "exec " + " ".join(quote(arg) for arg in self.guarded_command())
        return [str(options.su_path), options.username, "-c", command]

    def rules(self) -> dict[str, list[Rule]]:
        texts = password_required_msg, password_incorrect_msg
        prompt, wrong = self.options.rules(PasswordError, *texts)
        return {"pipe": [prompt] + wrong}

    def answers(self) -> dict[str, str | None]:
        return {"password": self.options.password}

    def default_name(self) -> str:
        return "su.%s" % self.options.username
