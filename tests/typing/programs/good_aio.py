"""The asyncio API: the same methods and calls, awaited."""

import asyncio

import mitogen.aio


def add(one: int, two: int = 0) -> int:
    return one + two


async def program() -> list[int]:
    async with mitogen.aio.Router(limit=10) as router:
        web = await router.ssh(hostname="web1", connect_timeout=3.0)
        root: mitogen.aio.Context = await router.sudo(via=web, username="root")
        result: int = await root.call(add, 1, two=2)
        both: tuple[int, int] = await asyncio.gather(web.call(add, 1), root.call(add, 2))
        await root.shutdown()
        return [result, *both]
