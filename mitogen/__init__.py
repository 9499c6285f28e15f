"""
Run Python on other machines and in other accounts, with nothing installed there.

The names here describe the process's main router. In a child they are set by its configuration.
"""

from __future__ import annotations

from mitogen.identity import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from mitogen.core import R
    from mitogen.master import Router

__all__ = ["__version__", "context_id", "is_master", "main", "parent_id", "parent_ids"]

#: Version of this library; a child has its parent's.
__version__ = VERSION
#: False in a child.
is_master = True
#: Id of this context.
context_id = 0
#: Id of the context that started this one, and those of all its ancestors, nearest first.
parent_id: int | None = None
parent_ids: list[int] = []


def main(
    log_level: str = "INFO", profiling: Any = None, modules: Iterable[str] = ()
) -> Callable[[Callable[[Router], R]], Callable[[Router], R]]:
    """
    Decorate a program's main function: if its module is run as the program, call it with a Router.

    In a child the decorator does nothing, so the program needs no `if __name__ == "__main__"`.

    :param str log_level: name of the level for log records
    :param bool profiling: profile every context; see mitogen.profiler. None: only if
        MITOGEN_PROFILING is in the environment
    :param modules: full names of the modules and packages whose source and data files contexts may
        read, besides the program itself; empty: all that the program could import
    """
    # A single name would be taken for its letters.
    names = [modules] if isinstance(modules, str) else list(modules)

    def decorate(func: Callable[[Router], R]) -> Any:
        if func.__module__ == "__main__":
            import mitogen.utils

            def run(router: Router) -> R:
                if profiling is not None:
                    router.profiling = bool(profiling)
                for name in names and ["__main__", *names]:
                    router.responder.whitelist_prefix(name)
                return func(router)

            mitogen.utils.log_to_file(level=log_level)
            return mitogen.utils.run_with_router(run)
        return func

    return decorate
