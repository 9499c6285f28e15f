"""Environments as users have them: Ansible alone, or with the checkout installed by pip.

Rules: they consist of links to an environment of environments.py, so that making one takes a second
and downloads nothing. Programs there do not inherit this process' environment.
"""

import os
import pathlib
import subprocess
from typing import Any, NamedTuple

from tests import hosts, processes
from tests.ansible import environments

__all__ = ["Place", "Site", "make"]

#: Packages in an environment besides ansible-core and its dependencies.
LEFT_OUT = ("mitogen", "ansible_collections", "ansible_mitogen", "pip", "setuptools", "__pycache__")
PROGRAMS = ("ansible", "ansible-playbook", "ansible-doc", "ansible-inventory")
LIMIT = 100.0  # seconds for one command


class Site(NamedTuple):
    """An environment.

    :param release: of ansible-core
    :param directory: the virtual environment
    :param packages: its site-packages
    """

    release: str
    directory: pathlib.Path
    packages: pathlib.Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")


def make(release: str, directory: pathlib.Path, with_mitogen: bool) -> Site:
    """Make an environment with a release of ansible-core.

    :param release: one of `environments.ALL`
    :param directory: its directory, which must not exist
    :param with_mitogen: whether the checkout is installed with `pip install`
    """
    installed = environments.ready(release)
    base = installed.program("python")
    hosts.run(base, "-m", "venv", "--without-pip", str(directory))
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    source = pathlib.Path(hosts.run(base, "-c", where).strip())
    site = Site(release, directory, next(directory.glob("lib/python*/site-packages")))
    for path in source.iterdir():
        if not path.name.startswith(LEFT_OUT):
            (site.packages / path.name).symlink_to(path)
    for name in PROGRAMS:
        text = pathlib.Path(installed.program(name)).read_text()
        program = directory / "bin" / name
        program.write_text("#!{}\n{}".format(site.python, text.partition("\n")[2]))
        program.chmod(0o755)
    if with_mitogen:
        wheel = environments.wheel(environments.stamp_of_checkout())
        pip = [base, "-m", "pip", "--python", site.python, "install", "-qq", "--no-deps"]
        hosts.run(*pip, "--no-index", "--no-compile", str(wheel), timeout=LIMIT)
    return site


class Place:
    """A user's directory, which is also HOME, and the environment on PATH.

    :param site: the environment
    :param directory: an empty one
    """

    def __init__(self, site: Site, directory: pathlib.Path) -> None:
        self.site, self.directory = site, directory
        self.config = directory / "ansible.cfg"
        self.variables = {
            "PATH": "{}:/usr/local/bin:/usr/bin:/bin".format(site.directory / "bin"),
            "HOME": str(directory),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            "COLUMNS": "300",
            "USER": "root",
            processes.RUN_VARIABLE: os.environ[processes.RUN_VARIABLE],
        }
        (directory / "tmp").mkdir(exist_ok=True)

    def write(self, name: str, text: str) -> pathlib.Path:
        """Write a file and return its path."""
        path = self.directory / name
        path.write_text(text)
        return path

    def run(self, *argv: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a command; capture standard output and error separately."""
        return subprocess.run(
            argv,
            cwd=str(self.directory),
            env={**self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def sh(self, command: str, **variables: str) -> Any:
        """Run a line of shell code."""
        return self.run("/bin/sh", "-c", command, **variables)

    def mitogen(self, *arguments: str, **variables: str) -> Any:
        """Run `python -m mitogen.ansible`."""
        return self.run(self.site.python, "-m", "mitogen.ansible", *arguments, **variables)
