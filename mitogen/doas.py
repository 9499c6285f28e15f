"""
Connection method `doas`: another account of this machine, by doas(1).

As with sudo, standard input is a pipe and the password prompt comes on a terminal.
"""

from __future__ import annotations

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

password_incorrect_msg = "doas password is incorrect"
password_required_msg = "doas password is required"


class PasswordError(LoginError):
    """doas prompted for a password, and it was missing or wrong."""


class Options(connection.AccountOptions):
    """
    In addition to connection.Options:

    :param str username: account to switch to; default root
    :param str password: password of the calling account
    :param str doas_path: path of the program
    :param str password_prompt: text of the prompt, compared case-insensitively
    :param incorrect_prompts: texts of possible replies to a wrong password
    """

    def __init__(
        self,
        username: str = "root",
        password: str | None = None,
        doas_path: Path = "doas",
        password_prompt: str = "password:",
        incorrect_prompts: Iterable[str] = (
            "doas: authentication failed",
            "doas: authorization failed",
        ),
        **kwargs: Any,
    ) -> None:
        connection.AccountOptions.__init__(
            self, username, password, password_prompt, incorrect_prompts, **kwargs
        )
        self.doas_path = doas_path


class Connection(connection.AccountConnection):
    """A doas process."""

    options_class = Options
    tty = True
    environ = {"LC_ALL": "C"}

    def argv(self) -> list[str]:
        options = self.options
        return [str(options.doas_path), "-u", options.username, "--", *self.guarded_command()]

    def rules(self) -> dict[str, list[Rule]]:
        texts = password_required_msg, password_incorrect_msg
        prompt, wrong = self.options.rules(PasswordError, *texts)
        return {"tty": [prompt] + wrong, "pipe": wrong}

    def answers(self) -> dict[str, str | None]:
        return {"password": self.options.password}

    def default_name(self) -> str:
        return "doas.%s" % self.options.username
