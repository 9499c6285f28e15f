"""Retries of the run's broker process for an account whose context can't be had."""

import pytest

from mitogen import core
from mitogen.ansible.broker import server
from mitogen.bootstrap import handshake

NO_PYTHON = handshake.UnsupportedPythonError("found none")
NO_SUDO = core.StreamError("sudo: no")
LOST = core.StreamError("ssh: connection refused")
HOST = ["ssh", {"hostname": "h"}]
ROOT = ["sudo", {"username": "root"}, "become"]


class Router:
    """A router that refuses each connection, after a time; also the clock."""

    def __init__(self):
        self.now = 1000.0
        self.takes = 2.0
        self.error = None
        self.tried = []

    def connect(self, method, via, **options):
        self.tried.append((method, via, options))
        self.now += self.takes
        raise self.error


@pytest.fixture
def router(monkeypatch):
    found = Router()
    monkeypatch.setattr(server.time, "monotonic", lambda: found.now)
    return found


def tries(router, account, via=None):
    """Request a context; return the number of attempts so far."""
    with pytest.raises(core.StreamError) as caught:
        account.connect(via, None, None, {})
    assert caught.value is router.error
    return len(router.tried)


@pytest.mark.parametrize("step, error", [(HOST, NO_PYTHON), (ROOT, NO_SUDO), (ROOT, NO_PYTHON)])
def test_a_failed_account_is_retried_after_a_multiple_of_its_cost(router, step, error):
    router.error = error
    account = server.Account(router, [step])
    assert tries(router, account) == 1
    router.now += server.RETRY_FACTOR * router.takes - 0.01
    assert tries(router, account) == 1
    router.now += 0.01
    assert tries(router, account) == 2
    assert tries(router, account) == 2


def test_it_is_tried_again_within_a_minute(router):
    router.error, router.takes = NO_SUDO, 30.0
    account = server.Account(router, [HOST, ROOT])
    assert tries(router, account) == 1
    router.now += server.MAX_RETRY_DELAY
    assert tries(router, account) == 2


def test_a_host_that_is_not_reached_is_tried_each_time(router):
    router.error = LOST
    account = server.Account(router, [HOST])
    assert [tries(router, account) for _ in range(3)] == [1, 2, 3]


def test_it_is_tried_again_from_another_context(router):
    router.error = NO_SUDO
    account = server.Account(router, [HOST, ROOT])
    assert [tries(router, account, via) for via in ("a", "a", "b", "b")] == [1, 1, 2, 2]


def test_it_is_tried_again_after_a_reset(router):
    router.error = NO_PYTHON
    account = server.Account(router, [HOST])
    assert tries(router, account) == 1
    account.reset()
    assert tries(router, account) == 2


# ---- secrets


def test_the_keys_of_accounts_have_no_secrets():
    def steps(password, token):
        kubectl = ["kubectl", "--token", token, "--namespace", "n"]
        options = {"username": "ann", "password": password}
        return [["kubectl", {"kubectl_path": kubectl}], ["sudo", options, "become"]]

    found = server.without_secrets(steps("canary", "bird"))
    assert "canary" not in repr(found) and "bird" not in repr(found)
    assert found == server.without_secrets(steps("canary", "bird"))
    assert found != server.without_secrets(steps("canary", "other"))
    assert found != server.without_secrets(steps("other", "bird"))
    assert found[1][1]["username"] == "ann" and found[1][2:] == ["become"]
    plain = [["local", {"password": None, "python_path": ["env", "A=b", "python3"]}]]
    assert server.without_secrets(plain) == plain


def test_an_account_is_connected_with_its_password_and_does_not_keep_it():
    given = []

    class Router:
        def connect(self, method, via, **options):
            given.append(options)
            raise core.StreamError("no")

    account = server.Account(Router(), server.without_secrets([["sudo", {"password": "canary"}]]))
    with pytest.raises(core.StreamError):
        account.connect(None, None, None, {"password": "canary"})
    assert given == [{"password": "canary"}] and "canary" not in repr(account.steps)
