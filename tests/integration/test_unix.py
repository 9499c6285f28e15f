"""mitogen.unix: processes that join the tree by a socket."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

import mitogen.core
import mitogen.unix
from mitogen.core.mailbox import Latch
from tests import processes
from tests.integration.conftest import SOON
from tests.integration.far import joining, work

pytestmark = pytest.mark.usefixtures("mirror")
JOINER = pathlib.Path(__file__).parent / "drivers" / "joiner.py"


@pytest.fixture
def listener(own_router):
    return mitogen.unix.Listener.build_stream(own_router)


def join(path, *args):
    """Run the joiner program; return its output, by line."""
    argv = [sys.executable, str(JOINER), str(path), *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_joined_process_calls_every_context_and_its_own(listener, own_router):
    near = own_router.local()
    far = own_router.local(via=near)
    pids = [str(context.call(work.identity)[0]) for context in (near, far)]
    got = join(listener.protocol.path, "identify", near.context_id, far.context_id)
    assert got == [*pids, "True"]


def test_a_joined_process_starts_contexts_in_others(listener, own_router):
    assert join(listener.path, "through", own_router.local().context_id) == ["True"]


def test_functions_of_a_joined_main_are_refused(listener, own_router):
    (text,) = join(listener.path, "refused", own_router.local().context_id)
    assert text.startswith("cannot call a function of __main__ in Context(")


def test_functions_of_a_shared_main_can_be_called(tmp_path):
    argv = [sys.executable, str(JOINER.parent / "same_main.py")]
    path = str(tmp_path / "socket")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*argv, "serve", path], **pipes) as server:
        pid = server.stdout.readline()
        done = subprocess.run(
            [*argv, "join", path], capture_output=True, text=True, timeout=60, check=True
        )
        assert pid and done.stdout == pid
        server.stdin.close()


def test_several_processes_join_concurrently(listener, own_router):
    child = own_router.local()
    argv = [sys.executable, str(JOINER), listener.path, "identify", str(child.context_id)]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert outputs == {"%d\nTrue\n" % child.call(work.identity)[0]}


def test_a_child_can_listen_and_a_child_can_join(own_router, tmp_path):
    path = str(tmp_path / "socket")
    one, two = own_router.local(), own_router.local()
    one.call(joining.listen, path)
    assert two.call(joining.join_and_identify, path) == one.call(work.identity)[0]
    assert join(path, "identify", one.context_id) == [str(one.call(work.identity)[0]), "True"]
    one.shutdown(wait=True)
    assert not os.path.exists(path)


def test_a_joined_process_may_call_in_a_unidirectional_tree(own_router):
    own_router.unidirectional = True
    child = own_router.local()
    listener = mitogen.unix.Listener.build_stream(own_router)
    assert join(listener.path, "identify", child.context_id)[0] == str(child.call(work.identity)[0])


def test_children_of_a_joined_process_lack_the_listeners_authority(listener, own_router, records):
    """A context started by the joined process may not call the listener's children."""
    victim = own_router.local()
    argv = [sys.executable, str(JOINER), listener.path, "own_child_calls", str(victim.context_id)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert "refused by policy" in done.stdout, done.stdout + done.stderr


def test_a_joined_process_detects_the_listeners_end(own_router, tmp_path):
    listener = mitogen.unix.Listener.build_stream(own_router, tmp_path / "socket")
    argv = [sys.executable, str(JOINER), str(listener.path), "wait"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waiting\n"
    listener.close()
    assert process.communicate(timeout=60)[0] == "the respondent Context has disconnected\n"
    processes.wait_until(lambda: not os.path.exists(listener.path), SOON)


def test_the_listener_detects_a_joined_process_end(listener, own_router):
    gone = Latch()
    router, _ = mitogen.unix.connect(listener.path)
    mine = own_router.context_by_id(router.context_id)
    mitogen.core.listen(mine, "disconnect", lambda: gone.put(True))
    router.broker.shutdown()
    router.broker.join()
    assert gone.get(SOON)
    processes.wait_until(lambda: not own_router.get_streams(), SOON)


def test_a_joined_process_can_be_shut_down_and_killed(listener, own_router):
    for end in ("shutdown", "kill"):
        router, context = mitogen.unix.connect(listener.path)
        receiver = mitogen.core.Receiver(router, respondent=context)
        mine = own_router.context_by_id(router.context_id)
        mine.shutdown(wait=True) if end == "shutdown" else own_router.kill(mine)
        with pytest.raises(mitogen.core.ChannelError):
            receiver.get(SOON)
        router.broker.shutdown()
        router.broker.join()


def test_the_socket_is_private_and_removed_with_the_broker():
    with mitogen.master.Router() as router:
        listener = mitogen.unix.Listener.build_stream(router)
        directory = os.path.dirname(listener.path)
        assert os.stat(listener.path).st_mode & 0o777 == 0o600
        assert os.stat(directory).st_mode & 0o777 == 0o700
        assert not mitogen.unix.is_path_dead(listener.path)
    assert not os.path.exists(directory)
    assert mitogen.unix.is_path_dead(listener.path)


def test_connect_without_a_listener_is_an_error(tmp_path):
    with pytest.raises(
        mitogen.unix.ConnectError, match="check that its program is running"
    ) as caught:
        mitogen.unix.connect(tmp_path / "none")
    assert caught.value.errno == 2


def test_only_a_stale_socket_is_replaced(own_router, tmp_path):
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(left))
    assert mitogen.unix.is_path_dead(left)
    listener = mitogen.unix.Listener.build_stream(own_router, left)
    with pytest.raises(mitogen.unix.Error, match="another process listens there"):
        mitogen.unix.Listener.build_stream(own_router, left)
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(mitogen.unix.Error, match="cannot listen at"):
        mitogen.unix.Listener.build_stream(own_router, file)
    assert file.read_text() == "precious"
    listener.close()


def test_silent_and_malformed_connections_are_closed(listener, own_router, monkeypatch):
    for data in (b"", b"abc", b"\0\0\0\1" + b"x" * 100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(listener.path)
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(SOON)
            while sock.recv(4096):
                pass
    processes.wait_until(lambda: not listener.greetings and not listener.streams, SOON)
    assert join(listener.path, "identify") == ["True"]


def test_the_socket_gets_its_mode_from_its_descriptor(own_router, tmp_path, monkeypatch):
    """Its name may be another file's as soon as it exists."""
    monkeypatch.setattr(os, "chmod", lambda *args, **kwargs: 1 // 0)
    old = os.umask(0)
    try:
        listener = mitogen.unix.Listener.build_stream(own_router, str(tmp_path / "socket"))
    finally:
        os.umask(old)
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
    listener.close()


def test_another_account_is_refused(own_router, users, tmp_path_factory):
    directory = tmp_path_factory.mktemp("open")
    directory.chmod(0o777)
    for above in list(directory.parents)[:3]:
        above.chmod(above.stat().st_mode | 0o011)
    path = str(directory / "socket")
    listener = mitogen.unix.Listener.build_stream(own_router, path)
    os.chmod(path, 0o666)
    other = own_router.sudo(username=users.plain.name, python_path="/usr/bin/python3")
    with pytest.raises(mitogen.core.CallError, match="runs as user 0"):
        other.call(joining.join_and_identify, path)
    listener.close()
