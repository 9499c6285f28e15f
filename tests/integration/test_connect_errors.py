"""A connection that cannot be made: the class identifies the cause, the text has the last output.

Each case is tried from the master and through another context (`via=`), which must not change the
type; each ends within its deadline and leaves no process and no descriptor.
"""

import os
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple

import pytest

import mitogen.bootstrap.handshake
import mitogen.core
import mitogen.doas
import mitogen.parent
import mitogen.ssh
import mitogen.su
import mitogen.sudo
from tests import hosts, processes
from tests.integration.conftest import own_children
from tests.integration.far import work

pytestmark = [pytest.mark.ssh, pytest.mark.root]

PYTHON2 = hosts.find_pythons().get((2, 7))
EOF = mitogen.parent.EofError
UNSUPPORTED = mitogen.bootstrap.handshake.UnsupportedPythonError
TIMEOUT = mitogen.core.TimeoutError
#: Seconds within which an error that needs no deadline must be raised.
PROMPT = 8.0


class Host(NamedTuple):
    """The objects that a case works with."""

    sshd: Any
    sshd_with: Any
    users: Any
    closed: int
    silent: int
    old_python: str


class Case(NamedTuple):
    """A failing connection; *kwargs* takes a Host; the error must contain all *texts*."""

    name: str
    method: str
    kwargs: Callable[[Host], dict[str, Any]]
    error: type[Exception]
    texts: Sequence[str]
    within: float = PROMPT
    kind: str = "plain"  # the account from which sudo, su and doas are tried


def known(host: Host, name: str) -> dict[str, Any]:
    return host.sshd.kwargs(ssh_args=host.sshd.ssh_args_for(getattr(host.sshd, name)))


def account(host: Host, kind: str, **more: Any) -> dict[str, Any]:
    return host.sshd.kwargs(username=getattr(host.users, kind).name, **more)


SSH_CASES = [
    Case(
        "wrong password",
        "ssh",
        lambda h: account(h, "pw", identity_file=None, password="wrong"),
        mitogen.ssh.PasswordError,
        ["SSH password is incorrect"],
    ),
    Case(
        "missing password",
        "ssh",
        lambda h: account(h, "pw", identity_file="/dev/null"),
        mitogen.ssh.PasswordError,
        ["SSH password was requested, but none specified"],
    ),
    Case(
        "unknown host key",
        "ssh",
        lambda h: known(h, "no_known_hosts"),
        mitogen.ssh.HostKeyError,
        ["Host key checking is enabled", "check_host_keys"],
    ),
    Case(
        "changed host key",
        "ssh",
        lambda h: known(h, "bad_known_hosts"),
        mitogen.ssh.HostKeyError,
        ["Host key checking is enabled", "check_host_keys"],
    ),
    Case(
        "refused",
        "ssh",
        lambda h: h.sshd.kwargs(port=h.closed),
        EOF,
        ["EOF on stream; last 100 lines received:", "Connection refused"],
    ),
    Case(
        "silent host",
        "ssh",
        lambda h: h.sshd.kwargs(port=h.silent, connect_timeout=0.5),
        TIMEOUT,
        ["Failed to setup connection after 0.50 seconds"],
        2.5,
    ),
    Case(
        "no such program",
        "ssh",
        lambda h: h.sshd.kwargs(ssh_path="/nonexistent/ssh"),
        mitogen.core.StreamError,
        ["/nonexistent/ssh"],
    ),
    Case(
        "named Python missing",
        "ssh",
        lambda h: h.sshd.kwargs(python_path="/nonexistent/python3"),
        UNSUPPORTED,
        ["looked for /nonexistent/python3", "found none", "3.6 or later"],
    ),
    Case(
        "Python 3.5",
        "ssh",
        lambda h: h.sshd.kwargs(python_path=h.old_python),
        UNSUPPORTED,
        ["looked for", "which is 3.5.9", "3.6 or later"],
    ),
    Case(
        "no Python after a motd",
        "ssh",
        lambda h: account(h, "motd", python_path="/nonexistent/python3"),
        UNSUPPORTED,
        ["looked for /nonexistent/python3", "Welcome to the noisy host."],
    ),
    Case(
        "no Python found",
        "ssh",
        lambda h: without_pythons(h).kwargs(),
        UNSUPPORTED,
        ["python3", "found none", "3.6 or later"],
    ),
    Case(
        "rc file that reads all input",
        "ssh",
        lambda h: account(h, "drain", connect_timeout=1.5),
        TIMEOUT,
        ["Failed to setup connection after 1.50 seconds"],
        4.0,
    ),
    Case(
        "menu that runs a shell",
        "ssh",
        lambda h: account(h, "menu"),
        EOF,
        ["EOF on stream; last 100 lines received:", "This account has a menu:"],
    ),
    Case(
        "shell that refuses",
        "ssh",
        lambda h: account(h, "refuse"),
        EOF,
        ["This account is for transfers only.", "status 7"],
    ),
    Case(
        "ForceCommand",
        "ssh",
        lambda h: h.sshd_with("ForceCommand echo forced").kwargs(),
        EOF,
        ["EOF on stream; last 100 lines received:", "forced"],
    ),
]
if PYTHON2:
    SSH_CASES.append(
        Case(
            "Python 2.7",
            "ssh",
            lambda h: h.sshd.kwargs(python_path=PYTHON2),
            UNSUPPORTED,
            ["looked for " + PYTHON2, "which is 2.7", "3.6 or later"],
        )
    )

BECOME_CASES = [
    Case(
        "sudo, wrong password",
        "sudo",
        lambda h: {"password": "wrong"},
        mitogen.sudo.PasswordError,
        ["sudo password is incorrect"],
        kind="pw",
    ),
    Case(
        "sudo, missing password",
        "sudo",
        lambda h: {},
        mitogen.sudo.PasswordError,
        ["sudo password is required"],
        kind="pw",
    ),
    Case(
        "sudo, unknown option",
        "sudo",
        lambda h: {"sudo_args": ["--frobnicate"]},
        mitogen.core.StreamError,
        ["sudo_args", "--frobnicate"],
    ),
    Case(
        "sudo, not in sudoers",
        "sudo",
        lambda h: {"password": h.users.su.password},
        EOF,
        ["not in the sudoers file"],
        kind="su",
    ),
    Case(
        "sudo, unknown account",
        "sudo",
        lambda h: {"username": "mito_nobody_at_all"},
        EOF,
        ["unknown user"],
    ),
    Case(
        "su, wrong password",
        "su",
        lambda h: {"username": h.users.su.name, "password": "wrong"},
        mitogen.su.PasswordError,
        ["su password is incorrect"],
    ),
    Case(
        "su, missing password",
        "su",
        lambda h: {"username": h.users.su.name},
        mitogen.su.PasswordError,
        ["su password is required"],
    ),
    Case(
        "doas, wrong password",
        "doas",
        lambda h: {"password": "wrong"},
        mitogen.doas.PasswordError,
        ["doas password is incorrect"],
        kind="pw",
    ),
    Case(
        "doas, missing password",
        "doas",
        lambda h: {},
        mitogen.doas.PasswordError,
        ["doas password is required"],
        kind="pw",
    ),
]


def without_pythons(host: Host) -> hosts.Sshd:
    """Return an sshd whose sessions find only `sh`."""
    directory = host.sshd.directory / "only_sh"
    directory.mkdir(exist_ok=True)
    if not (directory / "sh").exists():
        (directory / "sh").symlink_to("/bin/sh")
    line = 'ForceCommand PATH={} exec sh -c "$SSH_ORIGINAL_COMMAND"'.format(directory)
    return host.sshd_with(line)


@pytest.fixture(scope="module")
def host(sshd, sshd_with, users, hosts_directory):
    stub = hosts_directory / "python3.5"  # runs the first stage as Python 3.5 would
    stub.write_text(
        "#!/usr/bin/python3\n"
        "import sys\n"
        'sys.version, sys.version_info = "3.5.9 (default)", (3, 5, 9, "final", 0)\n'
        "code = sys.argv[2]\n"
        "del sys.argv[1:2]\n"
        "exec(code, {'__name__': '__main__'})\n"
    )
    stub.chmod(0o755)
    with hosts.closed_port() as closed, hosts.silent_listener() as silent:
        yield Host(sshd, sshd_with, users, closed, silent, str(stub))


@pytest.fixture(scope="module")
def vias(router, sshd, users):
    """Return `vias(kind)`: a context to connect from, made once; None is the master itself."""
    made: dict[str, Any] = {}

    def via(kind):
        if kind not in made:
            kwargs = sshd.kwargs(username=getattr(users, kind).name) if kind != "local" else {}
            made[kind] = router.connect("ssh" if kwargs else "local", **kwargs)
            made[kind].call(work.identity)
            # The modules needed to connect are loaded now, so the next look at /proc is final.
            made[kind].call(work.open_local)[0].shutdown(wait=True)
            processes.wait_until(lambda: not made[kind].call(work.belongings)[1])
        return made[kind]

    return via


def state(via):
    """Return the state that must not change: children and descriptors, here and there."""
    here = own_children(), len(os.listdir("/proc/self/fd"))
    return here + (tuple(via.call(work.belongings)) if via else ())


def nothing_more(now, before):
    """Return whether nothing was added; an earlier test's sshd session may have ended meanwhile."""
    return now[0] <= before[0] and now[1] <= before[1] and now[2:] == before[2:]


def attempt(router, case, host, via):
    """Try to connect and return the error; assert that it was quick and left nothing."""
    kwargs = case.kwargs(host)
    before = state(via)
    begin = time.monotonic()
    with pytest.raises(Exception) as caught:
        router.connect(case.method, via=via, **kwargs)
    assert time.monotonic() - begin < case.within
    processes.wait_until(
        lambda: nothing_more(state(via), before),
        what="{}, before: {}".format(state(via), before),
    )
    return caught.value


def check(error, case):
    assert type(error) is case.error, repr(error)
    assert isinstance(error, mitogen.core.Error)
    for text in case.texts:
        assert text in str(error)


@pytest.mark.parametrize("case", SSH_CASES, ids=lambda case: case.name)
def test_ssh_errors(case, router, host, vias):
    vias("local")  # so that it exists in both looks at the processes
    check(attempt(router, case, host, None), case)


@pytest.mark.parametrize("case", SSH_CASES, ids=lambda case: case.name)
def test_ssh_errors_through_a_context(case, router, host, vias):
    check(attempt(router, case, host, vias("local")), case)


@pytest.mark.parametrize("case", BECOME_CASES, ids=lambda case: case.name)
def test_become_errors_through_ssh(case, router, host, vias):
    if case.method == "doas" and not hosts.program("doas"):
        pytest.skip("needs opendoas (`doas` is not installed)")
    check(attempt(router, case, host, vias(case.kind)), case)


@pytest.mark.parametrize("kind", ["motd", "line", "eats", "csh", "fish"])
def test_noisy_logins_can_be_connected_to(kind, router, host):
    if kind not in host.users.users:
        pytest.skip("the shell of {!r} is not installed".format(kind))
    context = router.ssh(**account(host, kind))
    assert context.call(work.identity)[1] == getattr(host.users, kind).name
    context.shutdown(wait=True)


def test_an_unknown_host_key_can_be_accepted(router, host):
    kwargs = known(host, "no_known_hosts")
    for check_host_keys in ("ignore", "accept"):
        kwargs["check_host_keys"] = check_host_keys
        context = router.ssh(**kwargs)
        assert context.call(work.add, 1)[0] == 3
        context.shutdown(wait=True)
    with open(host.sshd.no_known_hosts, "r+") as fp:
        assert "ssh-ed25519" in fp.read()
        fp.truncate(0)
