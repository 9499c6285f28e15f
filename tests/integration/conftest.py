"""`context`: each way to reach a context; `router`: a master that is gone after the module.

Rules: a context is made once per module and kind. A test that harms one makes its own with
`connect` and `own_router`, and so leaves the shared one as it was.
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

#: Seconds that a test waits for what should come at once; only a failure takes so long.
SOON = 20.0
#: An interpreter that every account may run.
PYTHON = "/usr/bin/python3"


class Way(NamedTuple):
    """How to reach a context: *connect* takes (router, sshd, users); *user* is who it runs as."""

    connect: Callable[[Any, Any, Any], Any]
    user: str  # a name in `users`, or "" for whoever runs the tests
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
    """Return the pids of this process' own children: what it must have reaped.

    Not of theirs: an sshd's session ends when it has noticed that its client did.
    """
    return {each.pid for each in processes.children() if each.ppid == os.getpid()}


class Reached(NamedTuple):
    """A context and what is known of it beforehand."""

    context: Any
    router: Any
    user: str


class Records(logging.Handler):
    """A log handler that can be waited on."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[logging.LogRecord] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.queue.put(record)

    def wait_for(self, text: str, timeout: float = SOON) -> logging.LogRecord:
        """Return the first record from now on whose text holds *text*."""
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
    """What the root logger gets during the test."""
    handler = Records()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what mitogen.unix.connect() sets in this process."""
    for name in ("context_id", "parent_id", "parent_ids"):
        monkeypatch.setattr(mitogen, name, getattr(mitogen, name))


@pytest.fixture(scope="module", autouse=True)
def info_level() -> Iterator[None]:
    """Children forward what the master's loggers let through at the time of connecting."""
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
    """A router for one test, which may do to it what it likes."""
    with mitogen.master.Router() as router:
        yield router


@pytest.fixture(scope="module", params=list(WAYS))
def connect(request: pytest.FixtureRequest) -> Callable[[Any], Reached]:
    """`connect(router)` makes a context in each of the WAYS."""
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
    """A context, its router and its account, shared by the tests of a module."""
    reached = connect(router)
    yield reached
    reached.context.shutdown(wait=True)


@pytest.fixture
def context(reached: Reached) -> Any:
    return reached.context
