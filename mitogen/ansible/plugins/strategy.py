"""
The strategies `mitogen_linear`, `mitogen_free`, `mitogen_host_pinned` and `mitogen`: the stock
strategies, whose plays use mitogen's connections.

They exist for playbooks and configurations that use them already. Since ansible-core 2.19, Ansible
warns about each play with a third-party strategy; the callback does the same without a warning.

Rules
    1. They only add enable() before a play and disable() after it: plays with another strategy use
       the stock connections.
    2. A play's strategy is reported under the stock strategy's name, because core treats two
       strategies specially by name.

Threads: the main process's main one.
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

#: First release that warns.
WARNS = (2, 19)
HINT = (
    'mitogen.ansible: no strategy is needed: put "callbacks_enabled = mitogen.ansible.mitogen" into'
    ' ansible.cfg (or run "python -m mitogen.ansible enable"), and remove "strategy" and'
    ' "strategy_plugins".'
)


@functools.cache
def hint() -> None:
    """Recommend the callback, once in a run; as a warning in releases that warn themselves."""
    warns = tuple(int(part) for part in release.split(".")[:2]) >= WARNS
    (display.warning if warns and C.DEPRECATION_WARNINGS else display.vvv)(HINT)


def stock_connections() -> list[str]:
    """Return the callback's option `redirect`, whether the callback is enabled or not."""
    name = redirect.find(loader.callback_loader, "callback", "mitogen")
    # Loading it registers its options, under a name that depends on the release.
    plugin = loader.callback_loader.get(name, class_only=True)
    found = C.config.get_config_value(
        "redirect", plugin_type="callback", plugin_name=plugin._load_name
    )
    return list(found or [])


def enable(play: Any) -> None:
    """Make a play use mitogen's connections; see callback.enable()."""
    hint()
    try:
        callback.enable("strategy", stock_connections(), play)
    except Exception as e:
        display.vvv("mitogen.ansible: %s: %s" % (type(e).__name__, e))


def strategy(stock: Any, name: str) -> Any:
    """
    Return the class of one of mitogen's strategies.

    :param stock: module of the stock plugin
    :param name: name of the stock plugin
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
