"""econtext.detach(): a context leaves the tree and continues on its own."""

import os

import pytest

import mitogen.core
import mitogen.unix
from tests import processes
from tests.integration.conftest import SOON
from tests.integration.far import daemon, work


class Joined:
    """This process, joined to the tree that listens at *path*."""

    def __init__(self, path):
        processes.wait_until(lambda: not mitogen.unix.is_path_dead(path), SOON)
        self.router, self.context = mitogen.unix.connect(path)

    def __enter__(self):
        return self.context

    def __exit__(self, *_):
        self.router.broker.shutdown()
        self.router.broker.join()


@pytest.fixture
def path(tmp_path, mirror):
    """Yield the path at which a daemon listens; the daemon is ended after the test."""
    path = str(tmp_path / "socket")
    yield path
    if not mitogen.unix.is_path_dead(path):
        with Joined(path) as context:
            pid = context.call(daemon.state)[0]
            context.call_no_reply(daemon.stop)
            processes.wait_until(lambda: not processes.alive(pid), SOON)


def gone(pid):
    return lambda: not processes.alive(pid)


def leave(context, path, **kwargs):
    with pytest.raises(mitogen.core.ChannelError, match="disconnected"):
        context.call(daemon.leave, path, **kwargs)


def test_a_detached_context_outlives_its_parent_and_can_be_joined(path):
    with mitogen.master.Router() as router:
        context = router.local()
        pid = context.call(work.identity)[0]
        leave(context, path)
        assert not router.get_streams()
    assert processes.alive(pid)
    with Joined(path) as context:
        assert context.call(daemon.state)[0] == pid
        assert context.call(daemon.state)[2:] == (None, [])
        context.call_no_reply(daemon.stop)
        processes.wait_until(gone(pid), SOON)
    assert not os.path.exists(path)


def test_a_detached_context_is_the_root_of_its_children(path, own_router):
    leave(own_router.local(), path)
    with Joined(path) as context:
        me = context.call(daemon.state)
        (child, below) = context.call(daemon.children)
        assert child[3] == [me[1]] and below[3] == [child[1], me[1]]
        assert len({me[1], child[1], below[1]}) == 3


def test_the_former_parent_continues_and_reaps_it(path, own_router):
    context = own_router.local()
    pid = context.call(work.identity)[0]
    leave(context, path)
    assert own_router.local().call(work.echo, 1) == 1
    with Joined(path) as joined:
        joined.call_no_reply(daemon.stop)
        processes.wait_until(gone(pid), SOON)


def test_shutdown_and_pending_waits_of_the_old_tree_end(path, own_router):
    context = own_router.local()
    receiver = mitogen.core.Receiver(own_router, respondent=context)
    leave(context, path)
    with pytest.raises(mitogen.core.ChannelError):
        receiver.get(SOON)
    context.shutdown(wait=True)
    with Joined(path) as joined:
        assert joined.call(work.echo, 5) == 5


def test_imports_of_unsent_modules_fail_at_once(path, own_router):
    leave(own_router.local(), path)
    with Joined(path) as context:
        with pytest.raises(ImportError, match="where this context was detached from"):
            context.call(daemon.import_late)
        with pytest.raises(ImportError, match="no_such_module"):
            context.call(daemon.import_missing)


def test_output_records_and_messages_to_the_old_tree_are_dropped(path, own_router):
    inbox = mitogen.core.Receiver(own_router)
    leave(own_router.local(), path, sender=inbox.to_sender())
    with Joined(path) as context:
        assert context.call(daemon.talk) == "printed"
        context.call(daemon.send_home)
        # The context still works.
        assert context.call(work.echo, 4) == 4
    assert inbox.empty()


def test_detaching_twice_is_an_error(path, own_router):
    leave(own_router.local(), path)
    with Joined(path) as context:
        with pytest.raises(mitogen.core.CallError, match="is already detached"):
            context.call(daemon.detach_again)


def test_a_grandchild_with_a_child_can_detach(path, own_router):
    near = own_router.local()
    far = own_router.local(via=near)
    below = own_router.local(via=far)
    pid = below.call(work.identity)[0]
    leave(far, path)
    # Both left this tree; the lower one still belongs to its parent.
    for context in far, below:
        with pytest.raises(mitogen.core.ChannelError):
            context.call(work.echo, 1)
    assert near.call(work.echo, 1) == 1 and processes.alive(pid)
    with Joined(path) as context:
        context.call_no_reply(daemon.stop)
    processes.wait_until(gone(pid), SOON)


def test_a_context_over_ssh_stays_when_the_client_ends(path, own_router, sshd):
    context = own_router.ssh(**sshd.kwargs(python_path="/usr/bin/python3"))
    pid = context.call(work.identity)[0]
    leave(context, path)
    with Joined(path) as joined:
        assert joined.call(daemon.state)[0] == pid
        joined.call_no_reply(daemon.stop)
        processes.wait_until(gone(pid), SOON)
