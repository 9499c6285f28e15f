"""`context`: each way to reach a context; `router`: a master that ends after the module.

Rules: a context is made once per module and kind. A test that damages one makes its own with
`connect` and `own_router`, so that the shared one stays intact.
"""

import logging
import os
import queue
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import pytest

import mitogen.core
import mitogen.master
from tests import hosts, processes

#: Seconds a test waits for an event that should be immediate; only a failure takes this long.
SOON = 20.0
#: An interpreter that every account can run.
PYTHON = "/usr/bin/python3"


class Way(NamedTuple):
    """A way to reach a context: *connect* takes (router, sshd, users); it runs as *user*."""

    connect: Callable[[Any, Any, Any], Any]
    user: str  # a name in `users`, or "" for the account that runs the tests
    local: bool = False  # needs neither root nor sshd


def plain(router: Any, sshd: Any, users: Any, kind: str = "plain") -> Any:
    return router.ssh(**sshd.kwargs(username=getattr(users, kind).name))


def by_password(router: Any, sshd: Any, users: Any) -> Any:
    user = users.pw
    kwargs = sshd.kwargs(username=user.name, password=user.password, identity_file=None)
    return router.ssh(**kwargs)


def sudo(router: Any, sshd: Any, users: Any, kind: str, **kwargs: Any) -> Any:
    return router.sudo(via=plain(router, sshd, users, kind), **kwargs)


def ssh_through_root(router: Any, sshd: Any, users: Any) -> Any:
    first = router.ssh(**sshd.kwargs())
    return router.ssh(via=first, **sshd.kwargs(username=users.plain.name))


def ask_su(router: Any, sshd: Any, users: Any) -> Any:
    via = plain(router, sshd, users)
    return router.su(via=via, username=users.su.name, password=users.su.password)


def ask_doas(router: Any, sshd: Any, users: Any) -> Any:
    return router.doas(via=plain(router, sshd, users, "pw"), password=users.pw.password)


WAYS = {
    "local": Way(lambda router, sshd, users: router.local(), "", True),
    "fork": Way(lambda router, sshd, users: router.fork(), "", True),
    "local-via-local": Way(lambda r, sshd, users: r.local(via=r.local()), "", True),
    "fork-via-local": Way(lambda r, sshd, users: r.fork(via=r.local()), "", True),
    "ssh": Way(plain, "plain"),
    "ssh-password": Way(by_password, "pw"),
    "ssh-via-ssh": Way(ssh_through_root, "plain"),
    "sudo": Way(lambda r, s, u: r.sudo(username=u.plain.name, python_path=PYTHON), "plain"),
    "sudo-via-ssh": Way(lambda r, s, u: sudo(r, s, u, "plain"), "root"),
    "sudo-password": Way(lambda r, s, u: sudo(r, s, u, "pw", password=u.pw.password), "root"),
    "sudo-requiretty": Way(lambda r, s, u: sudo(r, s, u, "req"), "root"),
    "local-via-sudo-via-ssh": Way(lambda r, s, u: r.local(via=sudo(r, s, u, "plain")), "root"),
    "su": Way(lambda r, s, u: r.su(username=u.plain.name, python_path=PYTHON), "plain"),
    "su-password": Way(ask_su, "su"),
    "doas": Way(lambda r, s, u: r.doas(via=plain(r, s, u)), "root"),
    "doas-password": Way(ask_doas, "root"),
}


def own_children() -> set[int]:
    """Return the pids of this process' own children, all of which it must reap.

    Grandchildren are left out: an sshd session ends only when it notices the end of its client.
    """
    return {each.pid for each in processes.children() if each.ppid == os.getpid()}


class Reached(NamedTuple):
    """A context, its router and the account it should run as."""

    context: Any
    router: Any
    user: str


class Records(logging.Handler):
    """A log handler with a wait method."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[logging.LogRecord] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put(record)

    def wait_for(self, text: str, timeout: float = SOON) -> logging.LogRecord:
        """Return the next record whose text contains *text*."""
        seen = []
        while True:
            try:
                record = self.queue.get(timeout=timeout)
            except queue.Empty:
                raise AssertionError("no {!r} in:\n{}".format(text, "\n".join(seen))) from None
            seen.append(record.getMessage())
            if text in seen[-1]:
                return record


@pytest.fixture
def records() -> Iterator[Records]:
    """Yield the records that the root logger receives during the test."""
    handler = Records()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the variables that mitogen.unix.connect() sets in this process."""
    for name in ("context_id", "parent_id", "parent_ids"):
        monkeypatch.setattr(mitogen, name, getattr(mitogen, name))


@pytest.fixture(scope="module", autouse=True)
def info_level() -> Iterator[None]:
    """Set the level to INFO: a child forwards levels that the master enabled before connecting."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.INFO)
    yield
    root.setLevel(level)


@pytest.fixture(scope="module")
def router() -> Iterator[mitogen.master.Router]:
    with mitogen.master.Router() as router:
        yield router


@pytest.fixture
def own_router() -> Iterator[mitogen.master.Router]:
    """Yield a router for one test, which may damage it."""
    with mitogen.master.Router() as router:
        yield router


@pytest.fixture(scope="module", params=list(WAYS))
def connect(request: pytest.FixtureRequest) -> Callable[[Any], Reached]:
    """Return `connect(router)`, which makes a context in each of the WAYS."""
    way = WAYS[request.param]
    sshd, users = None, None
    if not way.local:
        if os.geteuid() != 0:
            pytest.skip("needs root: makes accounts")
        if request.param.startswith("doas") and not hosts.program("doas"):
            pytest.skip("needs opendoas (`doas` is not installed)")
        sshd, users = request.getfixturevalue("sshd"), request.getfixturevalue("users")

    def make(router: Any) -> Reached:
        user = getattr(users, way.user).name if users and way.user != "root" else way.user
        return Reached(way.connect(router, sshd, users), router, user)

    return make


@pytest.fixture(scope="module")
def reached(connect: Callable[[Any], Reached], router: Any) -> Iterator[Reached]:
    """Yield a context, its router and its account, shared by the tests of a module."""
    reached = connect(router)
    yield reached
    reached.context.shutdown(wait=True)


@pytest.fixture
def context(reached: Reached) -> Any:
    return reached.context
