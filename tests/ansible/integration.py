"""Runs of ansible-core's own integration targets, with plain Ansible and each way of mitogen.

Rules: the targets are from the release's source distribution, which pip fetches once and which is
kept below .venv-ansible/; each run gets a copy, because targets write into their directory. Of the
setup by `ansible-test integration` only the required parts are done: the inventory with its
`testhost`, the play around a role, the environment. The host is this machine by ssh, as root. A
target that also fails with plain Ansible here is no evidence against mitogen.
"""

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tests import processes
from tests.ansible import bed, environments, ways

__all__ = ["TARGETS", "Result", "run", "sources", "table"]

#: Default targets: those about modules and connections on a POSIX host.
TARGETS = (
    "command_shell copy template file stat slurp raw script async become environment "
    "blockinfile want_json_modules_posix no_log"
).split()
#: Files that targets leave in root's home and that would change the result of the next run.
LEAVES = [
    "checkmode_subdir",
    "destdir_should_never_exist_because_of_check_mode",
    "dir1",
    "dir2",
    "foo.txt",
    "subdir",
]
#: Maximum seconds for one target.
LIMIT = 600.0
#: Lines of a failed run that are searched for the reason, from the end.
LAST = 400


class Result(NamedTuple):
    """The result of a run of a target.

    :param target: its name.
    :param way: one of `ways.WAYS`.
    :param status: exit status; None if it took too long.
    :param seconds: wall time.
    :param output: stdout and stderr.
    """

    target: str
    way: str
    status: Any
    seconds: float
    output: str

    def reason(self) -> str:
        """Return the line with the error; '' if it succeeded."""
        if self.status == 0:
            return ""
        if self.status is None:
            return "took more than {:g} s".format(LIMIT)
        lines = [line for line in self.output.splitlines()[-LAST:] if line.strip()]
        found = [line for line in lines if line.startswith(("fatal:", "failed:"))]
        kept = [line for line in found if "...ignoring" not in line]
        return (kept or lines or ["no output"])[-1][:600]


def sources(release: str) -> pathlib.Path:
    """Return the unpacked source distribution of the version in `environments.ready(release)`.

    :raises AssertionError: pip can't fetch it; its output is in the message.
    """
    installed = environments.ready(release)
    directory = environments.HOME / "sources"
    found = directory / "ansible_core-{}".format(installed.version)
    with environments.locked():
        if not (found / "test" / "integration").is_dir():
            directory.mkdir(exist_ok=True)
            pip = [installed.program("python"), "-m", "pip", "download", "-qq", "--no-deps"]
            pip += ["--no-binary", "ansible-core", "-d", str(directory)]
            environments.call(*pip, "ansible-core=={}".format(installed.version))
            with tarfile.open(str(found) + ".tar.gz") as archive:
                archive.extractall(str(directory), filter="data")
    return found / "test" / "integration"


def inventory(here: bed.Bed, way: ways.Way, run: pathlib.Path) -> dict[str, Any]:
    """Return the inventory that targets expect, with `testhost` on our sshd."""
    everyone = here.inventory(way, run, "none")["all"]["vars"]
    kept = {name: value for name, value in everyone.items() if name.startswith("ansible_")}
    # Nothing must change in root's own home, and other test runs may tidy up there.
    kept.update(ansible_user="root", ansible_remote_tmp=str(run / "root_tmp"))
    host = {
        **kept,
        "ansible_host": bed.ADDRESSES[0],
        "ansible_connection": way.variables["ssh_connection"],
    }
    return {"all": {"hosts": {"testhost": host}}}


@contextlib.contextmanager
def authorized_keys() -> Iterator[None]:
    """Ensure that root has an authorized_keys file: `copy` copies it; our sshd uses another one."""
    directory = pathlib.Path("~root/.ssh").expanduser()
    made = []
    if not directory.exists():
        directory.mkdir(0o700)
        made.append(directory)
    path = directory / "authorized_keys"
    if not path.exists():
        path.touch(0o600)
        made.append(path)
    try:
        yield
    finally:
        for each in reversed(made):
            (each.rmdir if each.is_dir() else each.unlink)()


@contextlib.contextmanager
def home_as_it_was(home: pathlib.Path) -> Iterator[None]:
    """Remove a target's leftovers in *home*, but keep earlier files."""
    new = [home / name for name in LEAVES if not os.path.lexists(home / name)]
    try:
        yield
    finally:
        for path in new:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(str(path))
            else:
                path.unlink(missing_ok=True)


def aliases(target: pathlib.Path) -> list[str]:
    path = target / "aliases"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.split("#")[0].strip() for line in lines]


def command(
    directory: pathlib.Path, target: str, output_dir: pathlib.Path, env: dict[str, str]
) -> list[str]:
    """Return the command of a target: its script, or ansible-playbook with a play around the role.

    :param env: its environment; a target on the controller uses it on the host too.
    """
    place = directory / "targets" / target
    if (place / "runme.sh").exists():
        return ["./runme.sh"]
    play = {
        "hosts": "testhost",
        "gather_facts": "gather_facts/no" not in aliases(place),
        "vars": {"output_dir": str(output_dir)},
        "roles": [target],
    }
    if "context/controller" in aliases(place):
        names = [name for name in env if name == "PATH" or name.startswith("ANSIBLE_")]
        play["environment"] = {name: env[name] for name in names}
    path = directory / "{}-play.yml".format(target)
    path.write_text(json.dumps([play]), encoding="utf-8")
    return ["ansible-playbook", path.name, "-i", "inventory"]


def environment(
    here: bed.Bed, installed: environments.Environment, way: ways.Way, run: pathlib.Path
) -> dict[str, str]:
    """Return the environment of a target: the bed's plus the variables of ansible-test."""
    found = here.environment(installed, way, run)
    (python,) = installed.directory.glob("lib/python3*")
    # Only the bed's own playbooks write results; a target has callback plugins of its own.
    del found["ANSIBLE_CALLBACK_PLUGINS"], found["BED_RESULTS"]
    found.update(
        # ansible-core uses it for local accounts, whatever HOME is; `async` looks for its jobs
        # there.
        HOME=pwd.getpwuid(os.geteuid()).pw_dir,
        ANSIBLE_ROLES_PATH=str(run / "integration" / "targets"),
        ANSIBLE_FORCE_HANDLERS="true",
        ANSIBLE_INVENTORY="/dev/null",
        ANSIBLE_HOST_PATTERN_MISMATCH="error",
        ANSIBLE_DEPRECATION_WARNINGS="false",
        ANSIBLE_DEVEL_WARNING="false",
        ANSIBLE_HOST_KEY_CHECKING="false",
        ANSIBLE_RETRY_FILES_ENABLED="false",
        ANSIBLE_NOCOLOR="true",
        ANSIBLE_PIPELINING="true",
        OUTPUT_DIR=str(run / "output_dir"),
        INVENTORY_PATH=str(run / "integration" / "inventory"),
        ANSIBLE_TEST_ANSIBLE_VERSION=installed.version,
        ANSIBLE_TEST_PYTHON_INTERPRETER=installed.program("python"),
        ANSIBLE_TEST_PYTHON_VERSION=python.name[len("python") :],
        # Scripts with `set -u` read it.
        PYTHONPATH="",
    )
    found["PATH"] += ":{}".format(run / "injector")
    # Variables too, because some targets use a configuration of their own.
    for name, value in way.settings.get("defaults", {}).items():
        found["ANSIBLE_" + name.upper()] = value
    return found


def make_injector(installed: environments.Environment, run: pathlib.Path) -> None:
    """Copy the programs that ansible-test puts on PATH: `python.py` and `virtualenv.sh`."""
    code = "import ansible_test; print(list(ansible_test.__path__)[0])"
    argv = [installed.program("python"), "-c", code]
    package = subprocess.check_output(argv, universal_newlines=True).strip()
    there = run / "injector"
    shutil.copytree(os.path.join(package, "_util", "target", "injector"), str(there))
    for path in there.glob("*.*"):
        path.chmod(0o755)


def run(here: bed.Bed, release: str, way: str, target: str) -> Result:
    """Run a target with a way and return its result.

    :param release: one of `environments.ALL`.
    :param target: the name of a directory of ansible-core's test/integration/targets.
    :raises LookupError: there is no such target.
    """
    installed, source = environments.ready(release), sources(release)
    if not (source / "targets" / target).is_dir():
        raise LookupError("ansible-core {} has no target {}".format(installed.version, target))
    directory, _ = here.prepare(ways.WAYS[way])
    copy = directory / "integration"
    shutil.copytree(str(source), str(copy), symlinks=True)
    (directory / "output_dir").mkdir()
    make_injector(installed, directory)
    # Every account that a target becomes can use it.
    (directory / "root_tmp").mkdir(exist_ok=True)
    (directory / "root_tmp").chmod(0o1777)
    hosts_there = json.dumps(inventory(here, ways.WAYS[way], directory))
    (copy / "inventory").write_text(hosts_there, encoding="utf-8")
    env = environment(here, installed, ways.WAYS[way], directory)
    argv = command(copy, target, directory / "output_dir", env)
    place = copy / "targets" / target if argv[0] == "./runme.sh" else copy
    env["ANSIBLE_PLAYBOOK_DIR"] = str(place)
    started = time.monotonic()
    home = pathlib.Path("~root").expanduser()
    with home_as_it_was(home), open(str(directory / "output"), "wb") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=str(place),
            start_new_session=True,
        )
        status = wait(child)
    seconds = time.monotonic() - started
    here.end_masters(directory)
    printed = (directory / "output").read_text(errors="replace")
    shutil.rmtree(str(copy))
    return Result(target, way, status, seconds, printed)


def wait(child: "subprocess.Popen[bytes]") -> Any:
    """Return the exit status; None, after all its processes were ended, if that takes too long."""
    try:
        return child.wait(LIMIT)
    except BaseException as error:
        tree = processes.process_tree(child.pid)
        os.killpg(child.pid, signal.SIGTERM)
        processes.end_processes(tree)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return None
        raise


def cell(result: Result) -> str:
    verdict = "passed" if result.status == 0 else "failed"
    return "{}, {:.1f} s".format(verdict, result.seconds)


def table(results: Sequence[Result]) -> str:
    """Return the results in reST: a row for each target, a column for each way."""
    columns = list(dict.fromkeys(each.way for each in results))
    rows = [["target", *columns]]
    for target in dict.fromkeys(each.target for each in results):
        cells = {each.way: cell(each) for each in results if each.target == target}
        rows.append(["``{}``".format(target)] + [cells.get(way, "") for way in columns])
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule]) + "\n"
