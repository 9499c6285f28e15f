"""Calls of functions keep the types of arguments and results."""

import os
from concurrent.futures import Future
from typing import Optional

import mitogen
import mitogen.core
import mitogen.master
import mitogen.parent
import mitogen.utils


def add(one: int, two: int = 0) -> int:
    return one + two


def names(path: str, *, hidden: bool = False) -> list[str]:
    return [name for name in os.listdir(path) if hidden or name[0] != "."]


@mitogen.core.takes_econtext
def whoami(prefix: str, econtext: mitogen.core.ExternalContext) -> str:
    return prefix + str(econtext.context.name)


@mitogen.core.takes_router
def connect_further(router: mitogen.parent.Router) -> mitogen.parent.Context:
    return router.local()


class Counter:
    @classmethod
    def start(cls, first: int) -> int:
        return first


def use(context: mitogen.parent.Context) -> None:
    total: int = context.call(add, 1, two=2)
    found: list[str] = context.call(names, "/", hidden=True)
    first: int = context.call(Counter.start, 3)
    pid: int = context.call(os.getpid)
    context.call_no_reply(add, 1)
    receiver: mitogen.core.Receiver = context.call_async(add, 1)
    future: Future[int] = context.submit(add, total, first)
    # Parameters added at the far side are not passed, so the arguments are not checked.
    text: str = context.call(whoami, "I am ")
    further: mitogen.parent.Context = context.call(connect_further)
    print(found, pid, receiver.get().unpickle(), future.result(), text, further.name)
    latch: mitogen.core.Latch = context.shutdown()
    gone: None = context.shutdown(wait=True)
    print(latch.get(), gone)


def chains(context: mitogen.core.Context) -> int:
    with mitogen.parent.CallChain(context, pipelined=True, timeout=3.0) as chain:
        chain.call_no_reply(names, "/")
        return chain.call(add, 1) + context.call(add, 2)


def plain(router: mitogen.master.Router, limit: int, title: Optional[str] = None) -> dict[str, int]:
    return {title or context.name or "?": limit for context in [router.local()]}


@mitogen.utils.with_router
def decorated(router: mitogen.master.Router, count: int) -> str:
    return str(router.local(name=str(count)).name)


@mitogen.main()
def main(router: mitogen.master.Router) -> None:
    use(router.local())


result: dict[str, int] = mitogen.utils.run_with_router(plain, 3, title="x")
title: str = decorated(3)
