"""
Commands without their become part: watches how become plugins build commands, to know the original
command and the account.

Rules
    1. A plugin's own build_become_command() is wrapped: its result is never parsed.
    2. A command that was not built under watch is a command like any other.

Threads: a worker's only one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mitogen.ansible.broker import scripts
from mitogen.ansible.plugins import option_translation

__all__ = ["Unwrapped", "Watch"]


class Unwrapped(NamedTuple):
    """A command and its become part, separated.

    :param command: the command; with a step, an argument of a shell
    :param step: step to the command's account; None for the account of the login
    :param prompts: True if it prompts for a password, which only the stock connection can answer
    """

    command: str
    step: list[Any] | None
    prompts: bool


class Watch:
    """
    Recorder of commands built by a become plugin.

    :param plugin: the become plugin; None for none
    """

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin
        #: Built command to (original command, step).
        self._made: dict[str, tuple[str, Any]] = {}
        build = getattr(plugin, "build_become_command", None)
        self._cannot_watch = plugin is not None and build is None
        if plugin is not None and build is not None:
            self._wrap(build)

    def _wrap(self, build: Any) -> None:
        def build_become_command(*args: Any, **kwargs: Any) -> Any:
            built = build(*args, **kwargs)
            cmd = args[0] if args else kwargs.get("cmd", built)
            if built and built != cmd:
                self._made[built] = (cmd, option_translation.become_step(self._plugin))
            return built

        self._plugin.build_become_command = build_become_command

    def step(self) -> list[Any] | None:
        """Return the step to the account that modules will probably run as; None for none."""
        step = self._plugin and option_translation.become_step(self._plugin)
        return [*step, "become"] if step else None

    def unwrap(self, cmd: str) -> Unwrapped:
        """
        Return a command without its become part.

        :param cmd: command as passed to a connection
        """
        inner = scripts.inner_command(cmd)
        for built, (command, step) in self._made.items():
            # Without a shell around it, the built command is the whole command.
            if cmd != built and (inner is None or inner not in (built, built + " && sleep 0")):
                continue
            if step is None:
                return Unwrapped(cmd, None, bool(self._plugin.expect_prompt()))
            return Unwrapped(command, [*step, "become"], False)
        return Unwrapped(cmd, None, bool(self._cannot_watch and self._plugin.expect_prompt()))
