"""Every playbook has the same result with each way as with plain Ansible, on every release.

One release is run in full, `SAMPLE` on the others; `--all` runs everything on all, and plain
Ansible a second time: a difference between two plain runs is an error of the bed, not of a way.
"""

import pytest

from tests import hosts
from tests.ansible import bed, environments, ways

#: The release that is run in full.
FULL = "2.21"
#: Playbooks for the other releases: become, errors, background.
SAMPLE = ["become_sudo"]
#: The way that is compared in full. The others lead to the same connections and take the sample on
#: that release; on other releases test_ways.py covers them.
FULL_WAY = "callback"

pytestmark = [pytest.mark.root, pytest.mark.ssh]


def chosen(release, way, name):
    """Return whether a run without --all includes the playbook *name*."""
    if way in ("plain", FULL_WAY):
        return release == FULL or name in SAMPLE
    return release == FULL and name in SAMPLE


def cases(everything):
    """Return (release, way, playbook) of each run to compare with plain Ansible."""
    return [
        (release, way, playbook.name)
        for release in (environments.ALL if everything else environments.RELEASES)
        for playbook in bed.playbooks()
        for way in ways.WAYS
        if release in playbook.releases and (everything or chosen(release, way, playbook.name))
    ]


def why_not(release):
    """Return why this can't be run here; '' if it can."""
    if not hosts.program("doas"):
        return "needs doas"
    return environments.why_not(release)


def pytest_generate_tests(metafunc):
    everything = metafunc.config.getoption("--all")
    if "way" not in metafunc.fixturenames:
        metafunc.parametrize("release", environments.ALL if everything else environments.RELEASES)
        return
    parameters = []
    for release, way, playbook in cases(everything):
        keys, reason = [(release, "plain", playbook, 0)], why_not(release)
        if way != "plain":
            keys.append((release, way, playbook, 0))
        elif everything:
            keys.append((release, way, playbook, 1))
        marks = [pytest.mark.skip(reason=reason)] if reason else [pytest.mark.ansible_runs(*keys)]
        name = "{}-{}-{}".format(release, way, playbook)
        parameters.append(pytest.param(keys, way, playbook, id=name, marks=marks))
    metafunc.parametrize(("keys", "way", "playbook"), parameters)


@pytest.mark.timeout(900)  # pip downloads
def test_each_release_has_an_environment(release, installed):
    """Each available release has an environment, with its newest patch."""
    if environments.why_not(release):
        pytest.skip(environments.why_not(release))
    environment = installed(release)
    output = hosts.run(environment.program("ansible-playbook"), "--version")
    assert "[core {}]".format(environment.version) in output
    assert environment.version.startswith(release + ".")


# A test waits only for its runs, but other runs keep the machine busy too.
@pytest.mark.timeout(4 * bed.LIMIT)
def test_a_playbook_has_plain_ansibles_result(keys, way, playbook, runs):
    outcomes = [runs(*key) for key in keys]
    problems = [outcome.wrong() for outcome in outcomes if outcome.wrong()]
    if len(outcomes) > 1:
        problems += bed.differences(outcomes[0], outcomes[1], way)
    assert not problems, "\n".join(problems)
