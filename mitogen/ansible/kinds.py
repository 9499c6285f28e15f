"""
The kinds of connection: a class for each, made of Plugin and Ansible's stock plugin.

Rules
    1. What a kind's options mean is transports.py's; here is only what else is its own.

Threads: a worker's only one.
"""

from __future__ import annotations

import os
import re
from typing import Any

from ansible.module_utils.common.text.converters import to_bytes, to_text

from mitogen.ansible import transports
from mitogen.ansible.connection import Plugin, documentation

__all__ = ["documentation", "local", "ssh"]


def ssh(stock: Any) -> Any:
    """Return the class of our `ssh` plugin."""

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "ssh"

        def _step(self) -> Any:
            return transports.ssh_step(self)

        def _wants_terminal(self) -> bool:
            return bool(self.get_option("use_tty"))

        def _why_not(self, host: Any, text: str) -> str:
            # The client's own words, as the stock plugin has them.
            found = re.search(r"(?s)lines received:\n(.*)\nprocess exited", text)
            return "Failed to connect to the host via ssh: %s" % (found.group(1) if found else text)

        def _farewell(self) -> bytes:
            shared = "ControlPersist" in str(self.get_option("ssh_args"))
            text = (
                "Shared connection to %s closed.\r\n" if shared else "Connection to %s closed.\r\n"
            )
            return to_bytes(text % self.get_option("host"))  # type: ignore[no-any-return]

    return Connection


def local(stock: Any) -> Any:
    """Return the class of our `local` plugin."""

    class Connection(Plugin, stock.Connection):  # type: ignore[misc]
        transport = "local"

        def _step(self) -> Any:
            return transports.local_step(self)

        def _program_options(self) -> dict[str, Any]:
            cwd = to_text(self.cwd) if getattr(self, "cwd", None) else os.getcwd()
            return {"cwd": cwd, "env": dict(os.environ)}

    return Connection
