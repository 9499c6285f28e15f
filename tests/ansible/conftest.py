"""Fixtures of the Ansible tests: the bed, and the runs, several at once.

Rules: every run that the chosen tests need is started in their order as soon as the first of them
asks, `JOBS` at a time, and happens once, however many tests look at it.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any, Callable

import pytest

from tests import hosts
from tests.ansible import bed, environments, fresh

#: A run waits for others half of its time; more than one and a half per processor gains nothing.
JOBS = max(2, (os.cpu_count() or 1) * 3 // 2)

Key = tuple[str, str, str, int]


class Runs:
    """Runs of playbooks, by (release, way, playbook, number).

    :param here: the bed.
    :param wanted: what to start, in this order.
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
        """Return the outcome of a run, waiting for it if need be."""
        return self._runs[key].result()

    def close(self) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=True)


@pytest.fixture(scope="package")
def ansible_bed(
    hosts_directory: Any, sshd_with: Callable[..., hosts.Sshd], users: hosts.Accounts, pythons: Any
) -> Iterator[bed.Bed]:
    """Where playbooks are run; see bed.py."""
    here = bed.Bed(hosts_directory, sshd_with(*bed.SSHD_LINES), users, pythons)
    yield here
    left = here.close()
    assert not left, "left on the host by playbooks: " + ", ".join(left)


@pytest.fixture(scope="package")
def runs(request: pytest.FixtureRequest, ansible_bed: bed.Bed) -> Iterator[Runs]:
    """`runs(release, way, playbook, number)`: what that run did."""
    wanted: dict[Key, None] = {}
    for item in request.session.items:
        marker = item.get_closest_marker("ansible_runs")
        if marker and not item.get_closest_marker("skip"):
            wanted.update(dict.fromkeys(marker.args))
    started = Runs(ansible_bed, list(wanted))
    yield started
    started.close()


@pytest.fixture(scope="session")
def installed() -> Callable[[str], environments.Environment]:
    """`installed("2.21")`: the environment of that release, made if need be."""
    return environments.ready


@pytest.fixture(scope="package")
def sites(tmp_path_factory):
    """`sites("2.21", True)`: an environment, with mitogen in it or not."""
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
    """`inventory(place)`: a host by ssh, `web`, and a local one, `here`."""

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
        # Not in root's home, where other runs tidy up.
        there = "ansible_remote_tmp={}".format(place.directory / "remote")
        lines += ["here ansible_connection=local {} {}".format(python, there)]
        place.write("hosts", "\n".join(lines) + "\n")

    yield write
    for directory in (".ansible/tmp", ".ansible"):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(os.path.join(users.plain.home, directory))
