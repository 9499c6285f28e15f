"""mitogen.aio: the same operations for asyncio programs."""

import asyncio
import os
import subprocess
import sys

import pytest

import mitogen.aio
import mitogen.core
from mitogen.calls.chain import CallChain
from mitogen.core.mailbox import Receiver
from tests import processes
from tests.integration.conftest import SOON, own_children
from tests.integration.far import threads, work


def run(main):
    """Run `main(router)` with its own Router, which must leave nothing behind."""
    before = own_children()

    async def around():
        async with mitogen.aio.Router() as router:
            return await asyncio.wait_for(main(router), 60)

    result = asyncio.run(around())
    assert own_children() <= before
    return result


def test_connects_and_calls():
    async def main(router):
        context = await router.local(name="one")
        assert context.name == "one"
        assert (await context.call(work.add, 1, b=3))[0] == 4
        with pytest.raises(ValueError, match="as expected"):
            await context.call(work.fail, "as expected")
        with pytest.raises(TypeError):
            await context.call(lambda: 1)
        return await context.call(work.identity)

    assert run(main)[2] == os.getpid()


def test_connects_through_another_context_and_by_a_spec():
    async def main(router):
        near = await router.local()
        far = await router.local(via=near)
        assert (await far.call(work.identity))[2] == (await near.call(work.identity))[0]
        third = await router.from_spec("local/local?name=last")
        return third.name

    assert run(main).endswith("last")


def test_one_gather_makes_fifty_contexts():
    async def main(router):
        contexts = await asyncio.gather(*(router.local() for _ in range(50)))
        pids = await asyncio.gather(*(c.call(work.identity_of, 0) for c in contexts))
        return len(set(pids))

    assert run(main) == 50


def test_calls_to_one_context_are_concurrent():
    async def main(router):
        context = await router.local()
        return await asyncio.gather(*(context.call(work.echo, n) for n in range(500)))

    assert run(main) == list(range(500))


def test_a_failed_connection_raises():
    async def main(router):
        with pytest.raises(mitogen.core.StreamError, match="cannot start /no/such"):
            await router.local(python_path="/no/such")
        with pytest.raises(AttributeError, match="no attribute 'no_such_method'"):
            await router.no_such_method()

    run(main)


def test_cancelling_a_call_interrupts_the_context():
    async def main(router):
        context = await router.local()
        started = mitogen.aio.Receiver(router)
        task = asyncio.ensure_future(context.call(work.hang, started.to_sender()))
        await started.get()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await context.call(work.echo, 1)

    assert run(main) == 1


def test_a_chain_can_have_its_own_thread():
    async def main(router):
        context = await router.local()
        chains = [CallChain(context.context, worker=True) for _ in range(3)]
        return await asyncio.gather(*(context.call_in(chain, threads.meet) for chain in chains))

    assert len(set(run(main))) == 3


def test_cancelling_a_connection_ends_its_process(own_router):
    before = own_children()

    async def main(router):
        # This is not a Python, so it never becomes a context.
        task = asyncio.ensure_future(
            router.local(python_path=["/bin/sh", "-c", "read x; exec cat"])
        )

        def begun():
            return own_children() - before

        while not begun():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while begun():
            await asyncio.sleep(0)

    run(main)


def test_a_receiver_iterates_until_it_is_closed():
    async def main(router):
        context = await router.local()
        async with mitogen.aio.Receiver(router) as receiver:
            call = asyncio.ensure_future(context.call(work.count_to, receiver.to_sender(), 300))
            got = [message.unpickle() async for message in receiver]
            await call
        return got

    assert run(main) == list(range(300))


def test_a_waiting_receiver_raises_when_it_closes():
    async def main(router):
        receiver = mitogen.aio.Receiver(router)
        waiting = asyncio.ensure_future(receiver.get())
        await asyncio.sleep(0)
        receiver.close()
        with pytest.raises(mitogen.core.ChannelError):
            await waiting
        context = await router.local()
        other = mitogen.aio.Receiver(router, respondent=context.context)
        router.router.kill(context.context)
        with pytest.raises(mitogen.core.ChannelError):
            await other.get()

    run(main)


def test_a_sender_without_credit_does_not_block_the_loop():
    async def main(router):
        context = await router.local()
        reply = mitogen.aio.Receiver(router)
        summing = asyncio.ensure_future(context.call(work.sum_of_mailbox, reply.to_sender()))
        sender = mitogen.aio.Sender(router, (await reply.get()).unpickle())
        for number in range(100):
            await sender.send(number)
        await sender.close()
        return await summing

    assert run(main) == sum(range(100))


def test_shutdown_ends_the_context():
    async def main(router):
        before = own_children()
        context = await router.local()
        pid = await context.call(work.identity_of, 0)
        await context.shutdown()
        assert not processes.alive(pid) and own_children() == before
        with pytest.raises(mitogen.core.ChannelError):
            await context.call(work.echo, 1)

    run(main)


def test_an_existing_router_can_be_used(own_router):
    async def main():
        async with mitogen.aio.Router(own_router) as router:
            return await router.local()

    context = asyncio.run(main()).context
    assert context.call(work.echo, 1) == 1


def test_call_no_reply_returns_none(own_router):
    async def main():
        async with mitogen.aio.Router(own_router) as router:
            context = await router.local()
            await context.call_no_reply(threads.note, 7)
            return await context.call(threads.noted)

    assert asyncio.run(main()) == [7]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with 3.11")
def test_a_failed_task_group_ends_its_connections():
    before = own_children()

    async def main(router):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 (ExceptionGroup is 3.11's)
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(router.local())
                group.create_task(router.local(python_path="/no/such"))
        assert "cannot start /no/such" in str(caught.value.exceptions[0])

    run(main)
    assert own_children() <= before


def test_plain_receivers_work_too(own_router):
    receiver = Receiver(own_router)

    async def main():
        async with mitogen.aio.Router(own_router) as router:
            context = await router.local()
            await context.call(work.count_to, receiver.to_sender(), 3)

    asyncio.run(main())
    assert [receiver.get(SOON).unpickle() for _ in range(3)] == [0, 1, 2]


# ---- programs


def test_runs_a_program():
    async def main(router):
        context = await router.local()
        found = []
        done = await context.run(["cat"], input="text\n", text=True, on_stdout=found.append)
        assert (done.stdout, done.returncode, found) == ("text\n", 0, ["text\n"])
        data = os.urandom(5000000)
        both = await asyncio.gather(*[context.run(["cat"], input=data) for _ in range(40)])
        assert all(each.stdout == data for each in both)
        with pytest.raises(subprocess.CalledProcessError):
            await context.run(["false"], check=True)
        with pytest.raises(FileNotFoundError):
            await context.run(["no such program"])
        with pytest.raises(TypeError):
            await context.run(["true"], nonsense=1)

    run(main)


def test_a_timed_out_or_cancelled_program_is_killed():
    async def main(router):
        context = await router.local()
        slow = ["sh", "-c", "echo $$; exec sleep 1000"]
        pids = []
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            await context.run(slow, timeout=0.5, on_stdout=lambda data: pids.append(int(data)))
        assert int(caught.value.output) == pids[0]
        started = asyncio.Event()

        def note(data):
            pids.append(int(data))
            started.set()

        task = asyncio.ensure_future(context.run(slow, on_stdout=note))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        processes.wait_until(lambda: not any(map(processes.alive, pids)))

    run(main)
