"""The Ansible releases that the tests run: a virtual environment for each, below .venv-ansible/.

Rules: environments are kept, like .venv; a stamp records their content, and an outdated one is made
again. A lock ensures that one process at a time makes them. pip chooses the newest patch of a
release when its environment is made. The checkout is installed as by a user, with pip from a wheel,
and again whenever one of its files has changed.

`python -m tests.ansible.environments [--all | RELEASE ...]` makes them and prints their paths.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from tests import hosts
from tests.checkout import ROOT

__all__ = ["ALL", "RELEASES", "Environment", "installable", "ready", "why_not"]

HOME = ROOT / ".venv-ansible"

# The controller's Pythons for a release, in order of preference. If possible, each release gets a
# different one: controller code must run on all of them.
PYTHONS = {
    "2.16": [(3, 10), (3, 11), (3, 12)],
    "2.17": [(3, 11), (3, 10), (3, 12)],
    "2.18": [(3, 13), (3, 12), (3, 11)],
    "2.19": [(3, 11), (3, 12), (3, 13)],
    "2.20": [(3, 12), (3, 13), (3, 14)],
    "2.21": [(3, 13), (3, 12), (3, 14)],
    "2.22": [(3, 13), (3, 14)],
}
RELEASES = ["2.16", "2.19", "2.20", "2.21"]
# Releases whose candidate is used until there is a final release.
COMING = ["2.22"]
ALL = list(PYTHONS)

# Files of the checkout that are installed; a change in one makes the installation outdated.
INSTALLED = ["setup.py", "mitogen", "ansible_plugins"]
PIP_LIMIT = 600.0  # seconds; a cold download of ansible-core and its dependencies took 40


class Environment(NamedTuple):
    """A virtual environment with one release of ansible-core.

    :param release: `2.21`.
    :param directory: the environment's root; programs are in its bin/.
    :param version: the installed version: `2.21.5`.
    """

    release: str
    directory: pathlib.Path
    version: str

    def program(self, name: str) -> str:
        """Return the path of *name*, such as `ansible-playbook`."""
        return str(self.directory / "bin" / name)


def python_for(release: str) -> Optional[str]:
    """Return the Python that runs *release* here, the first in `PYTHONS` that exists, or None."""
    found = hosts.find_pythons()
    return next((found[version] for version in PYTHONS[release] if version in found), None)


def why_not(release: str) -> str:
    """Return why *release* can't be run on this machine; '' if it can."""
    if release not in PYTHONS:
        return "no such release: {}; known are {}".format(release, ", ".join(ALL))
    if python_for(release) is None:
        names = ", ".join("{}.{}".format(*version) for version in sorted(PYTHONS[release]))
        return "ansible-core {} needs one of Python {} (pyenv or PATH)".format(release, names)
    return ""


def installable() -> bool:
    """Return whether the checkout has an Ansible integration that setup.py installs."""
    return "ansible_collections" in (ROOT / "setup.py").read_text(encoding="utf-8")


def call(*argv: str, cwd: Optional[str] = None) -> str:
    """Run a program of an environment and return its output; AssertionError if it fails."""
    return hosts.run(*argv, cwd=cwd, timeout=PIP_LIMIT)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock on `HOME`: concurrent test runs in one checkout make environments in turn."""
    HOME.mkdir(exist_ok=True)
    with open(str(HOME / "lock"), "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def checkout_files() -> list[pathlib.Path]:
    found = []
    for name in INSTALLED:
        path = ROOT / name
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [each for each in below if each.is_file() and "__pycache__" not in each.parts]
    return found


def stamp_of_checkout() -> str:
    """Return a digest of every installed file of the checkout."""
    digest = hashlib.sha256()
    for path in checkout_files():
        content = path.read_bytes()
        digest.update("{}\0{}\0".format(path.relative_to(ROOT), len(content)).encode() + content)
    return digest.hexdigest()


def wheel(stamp: str) -> pathlib.Path:
    """Return a wheel of the checkout, built from a copy.

    setuptools builds in place, and would include an earlier build/ directory.
    """
    directory = HOME / "wheels" / stamp[:16]
    if not list(directory.glob("*.whl")):
        shutil.rmtree(str(directory.parent), ignore_errors=True)
        with tempfile.TemporaryDirectory() as scratch:
            for path in [*checkout_files(), ROOT / "README.rst", ROOT / "LICENSE"]:
                target = pathlib.Path(scratch, "copy", path.relative_to(ROOT))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(path), str(target))
            copy = os.path.join(scratch, "copy")
            call(sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", scratch, copy)
            directory.mkdir(parents=True)
            for built in pathlib.Path(scratch).glob("*.whl"):
                shutil.move(str(built), str(directory))
    return next(directory.glob("*.whl"))


def install_checkout(directory: pathlib.Path) -> None:
    """Install the checkout into the environment at *directory*, unless it is installed already."""
    stamp, path = stamp_of_checkout(), directory / "stamp-checkout"
    if read(path) == stamp:
        return
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "-qq", "--no-deps"]
    call(*pip, "--force-reinstall", "--no-index", str(wheel(stamp)))
    path.write_text(stamp, encoding="utf-8")


def make(release: str, directory: pathlib.Path, python: str) -> None:
    """Make the environment of *release* at *directory* with *python*, replacing an existing one."""
    shutil.rmtree(str(directory), ignore_errors=True)
    call(python, "-m", "venv", str(directory))
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "-qq"]
    wanted = "ansible-core=={}.*".format(release)
    try:
        call(*pip, wanted)
    except AssertionError:
        if release not in COMING:
            raise
        call(*pip, "--pre", wanted)


@functools.cache
def ready(release: str) -> Environment:
    """Return the environment of *release*, made or updated first if necessary.

    :param release: one of `ALL` for which `why_not()` returns ''.
    :raises AssertionError: pip failed; its output is in the message.
    """
    python = python_for(release)
    assert python is not None, why_not(release)
    directory = HOME / release
    with locked():
        stamp = "{}\n{}\n".format(release, call(python, "-c", "import sys; print(sys.version)"))
        if not read(directory / "stamp").startswith(stamp):
            make(release, directory, python)
            ask = "import ansible.release; print(ansible.release.__version__)"
            version = call(str(directory / "bin" / "python"), "-c", ask)
            (directory / "stamp").write_text(stamp + version, encoding="utf-8")
        if installable():
            install_checkout(directory)
    version = read(directory / "stamp").rstrip("\n").rpartition("\n")[2]
    return Environment(release, directory, version)


def main(arguments: Sequence[str]) -> int:
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    for release in ALL if "--all" in arguments else arguments or RELEASES:
        reason = why_not(release)
        if reason:
            print(reason)
            continue
        environment = ready(release)
        print("{}: {} in {}".format(release, environment.version, environment.directory))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (AssertionError, subprocess.SubprocessError) as error:
        sys.exit(str(error))
