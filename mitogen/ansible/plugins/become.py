"""
What become plugins make of commands: the command and the account that it is for, apart.

Rules
    1. A plugin's own build_become_command() is watched: nothing is read out of what it has made.
    2. What is not seen being made is a command like any other.

Threads: a worker's only one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mitogen.ansible.broker import scripts
from mitogen.ansible.plugins import method_options

__all__ = ["Apart", "Watch"]


class Apart(NamedTuple):
    """A command, taken apart.

    :param command: what is to be run; where there is a step, a shell's
    :param step: to the account that it is for; None for the one that is logged in to
    :param asks: it asks for a password, which only the stock connection knows how to give
    """

    command: str
    step: list[Any] | None
    asks: bool


class Watch:
    """
    Notes what a become plugin makes of commands.

    :param plugin: the become plugin; None for none
    """

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin
        #: What was made to what of: (command, step).
        self._made: dict[str, tuple[str, Any]] = {}
        build = getattr(plugin, "build_become_command", None)
        self._is_blind = plugin is not None and build is None
        if plugin is not None and build is not None:
            self._wrap(build)

    def _wrap(self, build: Any) -> None:
        def build_become_command(*args: Any, **kwargs: Any) -> Any:
            built = build(*args, **kwargs)
            cmd = args[0] if args else kwargs.get("cmd", built)
            if built and built != cmd:
                self._made[built] = (cmd, method_options.become_step(self._plugin))
            return built

        self._plugin.build_become_command = build_become_command

    def step(self) -> list[Any] | None:
        """Return the step to the account that modules will likely be for; None for none."""
        step = self._plugin and method_options.become_step(self._plugin)
        return [*step, "become"] if step else None

    def take_apart(self, cmd: str) -> Apart:
        """
        Return a command without its become.

        :param cmd: as a connection gets it
        """
        inner = scripts.inner_command(cmd)
        for built, (command, step) in self._made.items():
            # Where a task wants no shell around it, the command is all there is.
            if cmd != built and (inner is None or inner not in (built, built + " && sleep 0")):
                continue
            if step is None:
                return Apart(cmd, None, bool(self._plugin.expect_prompt()))
            return Apart(command, [*step, "become"], False)
        return Apart(cmd, None, bool(self._is_blind and self._plugin.expect_prompt()))
