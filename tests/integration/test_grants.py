"""Two hosts that do not trust each other exchange files directly, if an ancestor permits it."""

import os

import pytest

import mitogen.core
from mitogen import fakessh
from tests.integration.far import programs


@pytest.fixture
def pair(own_router):
    """Yield a file server and a web application, side by side."""
    return own_router.local(name="fileserver"), own_router.local(name="webapp")


def rsync(tmp_path, host="webapp"):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "file").write_bytes(os.urandom(3000000))
    return ["rsync", "-a", f"{source}/", f"{host}:{tmp_path}/target/"]


def arrived(tmp_path):
    return (tmp_path / "target/file").read_bytes() == (tmp_path / "source/file").read_bytes()


@pytest.mark.parametrize(
    "call",
    [
        lambda server, web, args: server.call(fakessh.run, web, args),
        lambda server, web, args: server.call(fakessh.run, web, None, args),
        lambda server, web, args: server.call(fakessh.run, dest=web, args=args),
        lambda server, web, args: server.call(fakessh.run, None, args=args, hosts={"webapp": web}),
        lambda server, web, args: server.call_async(fakessh.run, web, args).get().unpickle(),
    ],
)
def test_a_call_of_run_grants_access(call, pair, tmp_path):
    assert call(*pair, rsync(tmp_path)) == 0
    assert arrived(tmp_path)


def test_the_grant_ends_with_the_call(pair, tmp_path):
    server, web = pair
    assert server.call(fakessh.run, web, rsync(tmp_path)) == 0
    with pytest.raises(mitogen.core.CallError, match="no ancestor of both has granted it"):
        server.call(programs.run_there, web, ["true"], b"")


def test_other_functions_need_an_explicit_grant(pair, tmp_path):
    server, web = pair
    args = rsync(tmp_path)
    status = server.call(programs.run_tool, web, args)
    assert status == 255 and not (tmp_path / "target").exists()
    with fakessh.allow(server, web):
        assert server.call(programs.run_tool, web, args) == 0
    assert arrived(tmp_path)


def test_a_grant_has_one_direction(pair, tmp_path):
    server, web = pair
    with fakessh.allow(server, web):
        assert web.call(programs.run_tool, server, rsync(tmp_path)) == 255


def test_grants_work_deep_in_the_tree(own_router, tmp_path):
    bastion = own_router.local(name="bastion")
    server = own_router.local(via=own_router.local(via=bastion))
    web = own_router.local(via=bastion)
    assert server.call(fakessh.run, web, rsync(tmp_path)) == 0
    assert arrived(tmp_path)


def test_grants_work_between_accounts(own_router, users, tmp_path):
    """Each account writes only where permitted: the file belongs to the receiving account."""
    plain = own_router.sudo(username=users.plain.name, python_path="/usr/bin/python3")
    other = own_router.local(name="other")
    args = ["sh", "-c", "ssh x 'id -un; cat' < /etc/hostname > /dev/null && ssh x exit 3"]
    assert plain.call(fakessh.run, other, args) == 3
