"""
The kinds of connection: a class for each, combining Plugin and Ansible's stock plugin.

Rules
    1. Options are translated by option_translation.py; this module has the other differences only.

Threads: a worker's only one.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.connection import local as stock_local

from mitogen import core
from mitogen.ansible.broker import hops
from mitogen.ansible.plugins import accelerators, option_translation, own_options
from mitogen.ansible.plugins.connection import Plugin, documentation

__all__ = ["account", "documentation", "local", "own_options", "ssh", "tool"]


def ssh(stock: Any) -> Any:
    """Return the class of mitogen's `ssh` plugin."""
    accelerators.make_parsers_late(stock)

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "ssh"

        def _step(self, is_first: bool) -> Any:
            return option_translation.ssh_step(self)

        def _wants_terminal(self) -> bool:
            return bool(self.get_option("use_tty"))

        def connection_error(self, host: Any, text: str) -> str:
            # The client's own output, as in the stock plugin.
            found = re.search(r"(?s)lines received:\n(.*)\nprocess exited", text)
            if self._via():
                return super().connection_error(host, text)
            return "Failed to connect to the host via ssh: %s" % (found.group(1) if found else text)

        def _closing_message(self) -> bytes:
            shared = "ControlPersist" in str(self.get_option("ssh_args"))
            text = (
                "Shared connection to %s closed.\r\n" if shared else "Connection to %s closed.\r\n"
            )
            return to_bytes(text % self.get_option("host"))  # type: ignore[no-any-return]

    return Connection


def local(stock: Any) -> Any:
    """Return the class of mitogen's `local` plugin."""

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "local"

        def _via(self) -> list[Any]:
            # A variable of a whole group may define mitogen_via, which does not apply here.
            return []

        def _step(self, is_first: bool) -> Any:
            return option_translation.local_step(self)

        def _program_options(self) -> dict[str, Any]:
            cwd = to_text(self.cwd) if getattr(self, "cwd", None) else os.getcwd()
            return {"cwd": cwd, "env": dict(os.environ)}

    return Connection


class _ProgramConnection(Plugin, stock_local.Connection):  # type: ignore[misc]
    """
    A kind of connection without a stock plugin in Ansible. If no context can be made, its program
    runs the command, itself run on the controller like any local command.
    """

    _has_stock = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not the controller's account, which `local` sets.
        self.default_user = "root"

    def exec_stock(self, cmd: Any, in_data: Any = None, sudoable: bool = True) -> Any:
        method, keywords, *_ = self._step(True)
        command = to_text(cmd, errors="surrogateescape")
        try:
            argv = hops.command_line(method, keywords, command)
        except (core.StreamError, TypeError, ValueError) as e:
            raise AnsibleConnectionFailure(str(e)) from e
        with hops.secrets_in_environment(argv) as shown:
            return super().exec_stock(shown, in_data, sudoable)


def tool(kind: str) -> Any:
    """
    Return the class of a plugin for containers and the like.

    :param kind: a key of option_translation.KINDS
    """

    class Connection(_ProgramConnection):
        transport = kind

        def _step(self, is_first: bool) -> Any:
            return option_translation.tool_step(self, kind)

    return Connection


def account(kind: str) -> Any:
    """
    Return the class of a plugin whose host is an account: of the host before, or of this one.

    :param kind: "sudo", "su" or "doas"
    """

    class Connection(_ProgramConnection):
        transport = kind

        def _step(self, is_first: bool) -> Any:
            step = option_translation.account_step(self, kind)
            if step is None:
                raise AnsibleConnectionFailure(
                    "ansible_%s_flags=%r contains an option that mitogen does not support"
                    % (kind, self.get_option(kind + "_flags"))
                )
            if is_first:
                # The controller's own interpreter may not be executable by other accounts.
                step[1]["python_path"] = option_translation.local_step(self)[1]["python_path"]
            return step

    return Connection
