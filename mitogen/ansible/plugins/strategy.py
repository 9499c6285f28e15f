"""
The strategies `mitogen_linear`, `mitogen_free`, `mitogen_host_pinned` and `mitogen`: the stock
ones, whose plays use our connections.

For playbooks and configurations that name them already. From ansible-core 2.19 Ansible warns of
each play with a strategy that is not its own; the callback does the same without.

Rules
    1. Nothing is in them but enable() before a play and disable() after it: plays with another
       strategy go the stock way.
    2. Whoever asks what strategy a play has is told the stock one's name: core treats these two by
       name.

Threads: the main process' main one.
"""

from __future__ import annotations

import functools
from typing import Any

from ansible import constants as C
from ansible.plugins import loader
from ansible.release import __version__ as release
from ansible.utils.display import Display

from mitogen.ansible.plugins import callback, redirect

__all__ = ["strategy"]

display = Display()

#: The first release that warns.
WARNS = (2, 19)
HINT = (
    'mitogen.ansible: a strategy is not needed: put "callbacks_enabled = mitogen.ansible.mitogen"'
    ' into ansible.cfg ("python -m mitogen.ansible enable" does it), and take "strategy" and'
    ' "strategy_plugins" out.'
)


@functools.cache
def hint() -> None:
    """Say once in a run how to do without the strategy, where Ansible warns of it."""
    warns = tuple(int(part) for part in release.split(".")[:2]) >= WARNS
    (display.warning if warns and C.DEPRECATION_WARNINGS else display.vvv)(HINT)


def stock_connections() -> list[str]:
    """Return the callback's option `redirect`, whether the callback is enabled or not."""
    name = redirect.find(loader.callback_loader, "callback", "mitogen")
    # Loading it makes its options known, by a name that depends on the release.
    plugin = loader.callback_loader.get(name, class_only=True)
    found = C.config.get_config_value(
        "redirect", plugin_type="callback", plugin_name=plugin._load_name
    )
    return list(found or [])


def enable(play: Any) -> None:
    """Have a play use our connections; see callback.enable()."""
    hint()
    try:
        callback.enable("strategy", stock_connections(), play)
    except Exception as e:
        display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))


def strategy(stock: Any, name: str) -> Any:
    """
    Return the class of one of our strategies.

    :param stock: module of the stock plugin
    :param name: the stock plugin's
    """

    class StrategyModule(stock.StrategyModule):  # type: ignore[misc]
        def run(self, iterator: Any, play_context: Any) -> Any:
            """Run a play."""
            iterator._play.strategy = name
            enable(iterator._play)
            try:
                return super().run(iterator, play_context)
            finally:
                callback.disable("strategy")

    return StrategyModule
