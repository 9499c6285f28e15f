"""Fixtures of the Ansible tests: the bed, and concurrent runs.

Rules: each run of a playbook that the selected tests need happens once, no matter how many tests
use it. First come tests that check leftovers on the host, when nothing else may be running; then
all runs are started, `JOBS` at a time, and continue during the tests that need no bed; tests that
compare the runs come last.
"""

import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Callable

import pytest

from tests import hosts
from tests.ansible import bed, environments, fresh

HERE = pathlib.Path(__file__).resolve().parent
#: A run spends half of its time waiting, and other tests run at the same time.
JOBS = max(2, (os.cpu_count() or 1) * 3 // 2)

Key = tuple[str, str, str, int]


def turn(item: Any) -> int:
    """Return the phase of a test in this directory: 0 alone, 1 during the runs, 2 after them."""
    if item.get_closest_marker("ansible_runs"):
        return 2
    # Tests that change environments.py would affect the runs.
    return 0 if "ansible_bed" in item.fixturenames or item.path.stem == "test_environments" else 1


def wanted(items: list[Any]) -> list[Key]:
    """Return the runs that tests need, in the tests' order."""
    found: dict[Key, None] = {}
    for item in items:
        marker = item.get_closest_marker("ansible_runs")
        if marker and not item.get_closest_marker("skip"):
            found.update(dict.fromkeys(marker.args))
    return list(found)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Sort this directory's tests by phase; leave out those for --all."""
    if not config.getoption("--all"):
        out = [item for item in items if item.get_closest_marker("thorough")]
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
    places = [at for at, item in enumerate(items) if HERE in item.path.parents]
    ordered = sorted((items[at] for at in places), key=turn)
    for at, item in zip(places, ordered):
        items[at] = item


@pytest.fixture(autouse=True)
def meanwhile(request: pytest.FixtureRequest) -> None:
    """Start the runs."""
    if turn(request.node) == 1 and wanted(request.session.items):
        request.getfixturevalue("runs")


class Runs:
    """Runs of playbooks, by (release, way, playbook, number).

    :param here: the bed.
    :param wanted: the runs to start, in this order.
    """

    def __init__(self, here: bed.Bed, wanted: list[Key]) -> None:
        self._cancelled = threading.Event()
        self._pool = futures.ThreadPoolExecutor(JOBS)
        self._here, self._found = here, {each.name: each for each in bed.playbooks()}
        self._runs: dict[Key, futures.Future[bed.Outcome]] = {}
        for key in wanted:
            self._runs[key] = self._pool.submit(self._run, key)

    def _run(self, key: Key) -> bed.Outcome:
        if self._cancelled.is_set():
            raise AssertionError("cancelled")
        release, way, playbook, _ = key
        return self._here.run(release, way, self._found[playbook], cancelled=self._cancelled)

    def __call__(self, *key: Any) -> bed.Outcome:
        """Return the result of a run; wait for it if necessary."""
        return self._runs[key].result()

    def close(self) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=True)


@pytest.fixture(scope="package")
def ansible_bed(
    hosts_directory: Any, sshd_with: Callable[..., hosts.Sshd], users: hosts.Accounts, pythons: Any
) -> Iterator[bed.Bed]:
    """Yield the bed that playbooks run on; see bed.py."""
    here = bed.Bed(hosts_directory, sshd_with(*bed.SSHD_LINES), users, pythons)
    yield here
    left = here.close()
    assert not left, "left on the host by playbooks: " + ", ".join(left)


@pytest.fixture(scope="package")
def runs(request: pytest.FixtureRequest, ansible_bed: bed.Bed) -> Iterator[Runs]:
    """Yield `runs(release, way, playbook, number)`, which returns that run's result."""
    started = Runs(ansible_bed, wanted(request.session.items))
    yield started
    started.close()


@pytest.fixture(scope="session")
def installed() -> Callable[[str], environments.Environment]:
    """Return `installed("2.21")`, which returns that release's environment, made if necessary."""
    return environments.ready


@pytest.fixture(scope="package")
def sites(tmp_path_factory):
    """Return `sites("2.21", True)`, which returns an environment, with mitogen or without."""
    made: dict[tuple[str, bool], fresh.Site] = {}

    def site(release, with_mitogen):
        key = release, with_mitogen
        if key not in made:
            directory = tmp_path_factory.mktemp("site") / "venv"
            made[key] = fresh.make(release, directory, with_mitogen)
        return made[key]

    return site


@pytest.fixture
def inventory(sshd, users):
    """Return `inventory(place)`, which writes a host by ssh, `web`, and a local one, `here`."""

    def write(place):
        variables = {
            "ansible_port": sshd.port,
            "ansible_user": users.plain.name,
            "ansible_ssh_private_key_file": sshd.identity_file,
            "ansible_ssh_common_args": "'-o IdentitiesOnly=yes {}'".format(" ".join(sshd.ssh_args)),
        }
        text = " ".join("{}={}".format(*each) for each in variables.items())
        python = "ansible_python_interpreter=/usr/bin/python3"
        lines = ["web ansible_host=127.0.0.1 {} {}".format(python, text)]
        # A directory outside root's home, where other runs tidy up.
        there = "ansible_remote_tmp={}".format(place.directory / "remote")
        lines += ["here ansible_connection=local {} {}".format(python, there)]
        place.write("hosts", "\n".join(lines) + "\n")

    yield write
    for directory in (".ansible/tmp", ".ansible"):
        # It may be missing, or in use by concurrent runs.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(users.plain.home, directory))
