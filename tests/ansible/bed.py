"""The test bed: runs ansible-playbook against this machine's own sshd and records the results.

Rules: each run has its own directory, with HOME, ansible.cfg, inventory, temporary files and
results, and uses none of the machine's settings. Runs don't disturb each other, so several can run
concurrently. `Bed.close()` ends remaining processes (ssh masters) and returns the runs' leftovers
on the host; it removes those of every Ansible: empty .ansible/tmp in a home.

The inventory's hosts are in `inventory()`; playbooks use these variables:

    there           a directory on the host, only for this run, writable by every account
    here            a directory on the controller, only for this run
    mark            four letters unique to this run, for names of accounts and the like
    big_file        a file of 10 MB on the controller
    login, su_user, pw_user, su_password, pw_password    accounts, see tests/hosts.py
    way                                                  how the playbook is run: see ways.py
    ssh_connection, local_connection, *_strategy         the way's names of these plugins
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import select
import shlex
import shutil
import signal
import string
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

from tests import hosts, processes
from tests.ansible import compare, environments, ways

__all__ = [
    "LIMIT",
    "PLAYBOOKS",
    "SSHD_LINES",
    "Bed",
    "Outcome",
    "Playbook",
    "Running",
    "differences",
    "playbooks",
    "read_playbook",
]

HERE = pathlib.Path(__file__).resolve().parent
PLAYBOOKS = HERE / "playbooks"
LIBRARY = PLAYBOOKS / "library"

#: Seconds that a playbook may take; afterwards it is killed with all processes it started.
LIMIT = 150.0
#: Seconds that a playbook has to end after SIGTERM.
GRACE = 5.0
#: Variable in the environment of every process a run starts on a host, unless sudo removes it.
RUN_MARK = "BED_RUN"
OWN_DIRECTORY = re.compile(r"/\.ansible(_async|/tmp|/cp)?\Z")
#: Seconds that background jobs have, after all runs, to remove their files: async_wrapper waits 5.
SETTLE = 15.0
#: Seconds between two checks whether a run must be ended.
POLL = 0.05
BIG = 10 * 1024 * 1024
PYTHON = "/usr/bin/python3"  # every account can run it

#: Several addresses, each used as a host; more concurrent sessions and logins than sshd's default.
ADDRESSES = ["127.0.0.{}".format(number) for number in range(1, 17)]  # sshd's maximum is 16
SSHD_LINES = ["ListenAddress {}:{{port}}".format(address) for address in ADDRESSES[1:]]
SSHD_LINES += ["MaxStartups 200", "MaxSessions 100"]


class Playbook(NamedTuple):
    """A playbook and the settings from the `#:` lines at its head.

    :param path: the file.
    :param arguments: `#: arguments: --check`: additional arguments for ansible-playbook. In these
        and in the environment's values `{playbooks}` and `{run}` become directories: ours, the
        run's.
    :param ends: `#: ends: 2`: the exit status.
    :param environment: `#: environment: NAME=value`, may be repeated.
    :param leaves: `#: leaves: REGEX - why`, may be repeated: plain Ansible's leftovers on the host.
    :param better: `#: better: task - why`, may be repeated: tasks that only mitogen gets right.
    :param releases: `#: releases: 2.19 2.20`: releases that can run it.
    """

    path: pathlib.Path
    arguments: list[str]
    ends: int
    environment: dict[str, str]
    leaves: list[str]
    better: list[str]
    releases: list[str]

    @property
    def name(self) -> str:
        return self.path.stem


def read_playbook(path: pathlib.Path) -> Playbook:
    """Return the playbook at *path*.

    :raises ValueError: its head has an unknown key.
    """
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        match = re.match(r"#: ([a-z]+): (.*)", line)
        if match:
            found.setdefault(match.group(1), []).append(match.group(2))
    known = {"arguments", "ends", "environment", "leaves", "better", "releases"}
    if found.keys() - known:
        raise ValueError("{}: unknown key: {}".format(path, ", ".join(found.keys() - known)))
    return Playbook(
        path,
        shlex.split(" ".join(found.get("arguments", []))),
        int(found.get("ends", ["0"])[0]),
        dict(shlex.split(pair)[0].split("=", 1) for pair in found.get("environment", [])),
        [line.split(" - ")[0] for line in found.get("leaves", [])],
        [line.split(" - ")[0] for line in found.get("better", [])],
        " ".join(found.get("releases", environments.ALL)).split(),
    )


def playbooks() -> list[Playbook]:
    """Return all playbooks of the bed, by name."""
    return [read_playbook(path) for path in sorted(PLAYBOOKS.glob("*.yml"))]


class Running(NamedTuple):
    """A run in progress.

    :param child: ansible-playbook; it leads a session.
    :param directory: the run's.
    """

    child: "subprocess.Popen[bytes]"
    directory: pathlib.Path


class Outcome(NamedTuple):
    """The result of a run.

    :param playbook: the playbook.
    :param directory: the run's files: results.jsonl, output, ansible.cfg, inventory.json.
    :param status: exit status of ansible-playbook.
    :param records: records of the callback plugin; see callbacks/bed_results.py.
    :param output: stdout and stderr.
    :param wall: seconds from start to end.
    :param cpu: seconds of processor time, of the controller's processes alone.
    :param left: temporary files left on the controller.
    :param replace: for `compare`: (text particular to this run, replacement).
    """

    playbook: Playbook
    directory: pathlib.Path
    status: int
    records: list[dict[str, Any]]
    output: str
    wall: float
    cpu: float
    left: list[str]
    replace: list[tuple[str, str]]

    def wrong(self) -> str:
        """Return the error of this run by itself; '' if it met the playbook's expectations."""
        if self.status != self.playbook.ends:
            text = "{} ended with {}, not {}:\n{}"
            ends = self.playbook.ends
            return text.format(self.playbook.name, self.status, ends, self.output[-6000:])
        if self.left:
            return "{} left on the controller: {}".format(self.playbook.name, self.left)
        return ""


def differences(plain: Outcome, other: Outcome, way: str) -> list[str]:
    """Return the differences between a run and plain Ansible's, as lines; [] if they are equal.

    :param plain: plain Ansible's run.
    :param other: a run of the same playbook.
    :param way: the other run's way. For plain Ansible, tasks marked `better` count too.
    """
    replace = [plain.replace, other.replace]
    better = [] if way == "plain" else plain.playbook.better
    records, ours = [plain.records, other.records], way != "plain"
    if ours:
        records = [compare.without_needless(each) for each in records]
    found = compare.compare(*records, replace, better)
    if not better:
        output = plain.output, other.output
        found += compare.compare_output(*output, replace, ways.WAYS[way].may_print, ours)
    return found


def binary_module(path: pathlib.Path) -> None:
    """Make a module that Ansible treats as binary: sh never reads past `exit`."""
    text = b'#!/bin/sh\nprintf \'{"changed": false, "binary": true, "arguments": %s}\' '
    text += b'"$(cat "$1")"\nexit 0\n'
    path.write_bytes(text + bytes(range(256)) * 8)
    path.chmod(0o755)


class Bed:
    """The environment that playbooks run against, from construction to `close()`.

    :param directory: parent of the runs' directories; every account can read it.
    :param sshd: started with `SSHD_LINES`.
    :param users: the test accounts.
    """

    def __init__(
        self, directory: pathlib.Path, sshd: hosts.Sshd, users: hosts.Accounts, pythons: Any
    ) -> None:
        self.directory = directory / "ansible"
        self.directory.mkdir()
        self.sshd, self.users, self.pythons = sshd, users, pythons
        self.known_hosts = self.directory / "known_hosts"
        self.trust(sshd)
        self.big_file = self.directory / "big.bin"
        self.big_file.write_bytes(bytes(range(256)) * (BIG // 256))
        self.library = self.directory / "library"
        self.library.mkdir()
        binary_module(self.library / "binary_module")
        self._marks = itertools.product(string.ascii_lowercase, repeat=4)
        self._homes = [user.home for user in users] + [os.path.expanduser("~root")]
        self._before = {home: self._traces(home) for home in self._homes}
        self._tmp_before = self._in_tmp()
        self._may_leave: set[str] = set()

    def trust(self, sshd: hosts.Sshd, addresses: str = "127.0.0.*") -> None:
        """Add the key of an sshd at these addresses to the playbooks' known hosts."""
        with self.known_hosts.open("a") as known:
            known.write("[{}]:{} {}".format(addresses, sshd.port, sshd.keys.host_public))

    # ---- the host

    @staticmethod
    def _traces(home: str) -> list[str]:
        """Return Ansible's files below *home*."""
        found = []
        for name in (".ansible", ".ansible_async"):
            # os.walk() ignores directories removed meanwhile.
            for top, directories, files in os.walk(os.path.join(home, name)):
                found += [top] + [os.path.join(top, each) for each in files]
                found += [os.path.join(top, each) for each in directories]
        return sorted(set(found))

    def _in_tmp(self) -> set[str]:
        """Return the test accounts' files in /tmp and /var/tmp."""
        mine, found = {user.uid for user in self.users}, set()
        for entry in itertools.chain(os.scandir("/tmp"), os.scandir("/var/tmp")):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_uid in mine:
                    found.add(entry.path)
        return found

    def left(self) -> list[str]:
        """Return new files on the host, except those that plain Ansible may leave.

        Directories that Ansible makes in a home count only if they are not empty.
        """
        may_leave = re.compile("|".join(self._may_leave) or r"(?!)")
        found = [path for path in self._in_tmp() - self._tmp_before if not may_leave.match(path)]
        for home in self._homes:
            new = set(self._traces(home)) - set(self._before[home])
            found += [path for path in new if not OWN_DIRECTORY.search(path)]
        return sorted(found)

    def close(self) -> list[str]:
        """Remove the leftovers of every Ansible; return the runs' other leftovers on the host.

        Background jobs remove their files a moment after the playbook's end.
        """
        with contextlib.suppress(AssertionError):
            processes.wait_until(lambda: not self.left(), SETTLE)
        found = self.left()
        for path in self._in_tmp() - self._tmp_before - set(found):
            shutil.rmtree(path, ignore_errors=True)
        for home in self._homes:
            for path in sorted(set(self._traces(home)) - set(self._before[home]), reverse=True):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
        return found

    # ---- a run's files

    def _members(self, way: ways.Way, run: pathlib.Path) -> dict[str, dict[str, Any]]:
        """Return the hosts and their particular variables."""
        # Nothing must change in root's own home.
        in_run = {
            "ansible_remote_tmp": str(run / "root_tmp"),
            "ansible_async_dir": str(run / "root_async"),
        }
        root = {"ansible_user": "root", **in_run}
        members: dict[str, dict[str, Any]] = {
            "one": {},
            "two": {},
            "three": {},
            "four": {},
            "five": {},
            # Its sudo asks for a password.
            "asks": {
                "ansible_user": self.users.pw.name,
                "ansible_become_password": self.users.pw.password,
            },
            # The login is root.
            "superuser": dict(root),
            # The login prints a greeting on both stdout and stderr.
            "noisy": {"ansible_user": self.users.motd.name},
            # Ansible has to find the interpreter; the configured path does not exist.
            "auto": {"ansible_python_interpreter": "auto"},
            "silent": {"ansible_python_interpreter": "auto_silent"},
            "nopython": {"ansible_python_interpreter": "/nowhere/python3"},
        }
        for number, host in enumerate(members.values()):
            host["ansible_host"] = ADDRESSES[number]
        others = itertools.cycle(ADDRESSES[len(members) :])
        for (major, minor), path in self.pythons.items():
            python = {"ansible_python_interpreter": path, "ansible_host": next(others)}
            members["python{}{}".format(major, minor)] = {**root, **python}
        # The same host as `one`, by a connection with its full name; another kind of connection.
        members["fqcn"] = {"ansible_connection": "ansible.builtin.ssh"}
        members["alien"] = {"ansible_connection": "alien", **in_run}
        # Nothing listens on the port.
        members["gone"] = {"ansible_host": "127.0.0.99"}
        members["nearby"] = {
            "ansible_connection": way.variables["local_connection"],
            **in_run,
        }
        for host in members.values():
            host.setdefault("ansible_host", ADDRESSES[0])
            host.setdefault("ansible_connection", way.variables["ssh_connection"])
        return members

    def inventory(self, way: ways.Way, run: pathlib.Path, mark: str) -> dict[str, Any]:
        """Return the inventory of one run, as a dict for YAML or JSON."""
        sshd, users = self.sshd, self.users
        members = self._members(way, run)
        everyone: dict[str, Any] = {
            "ansible_port": sshd.port,
            "ansible_user": users.plain.name,
            "ansible_ssh_private_key_file": sshd.identity_file,
            "ansible_ssh_common_args": " ".join(
                ["-o", "IdentitiesOnly=yes", "-o", "SetEnv={}={}".format(RUN_MARK, run)]
                + sshd.ssh_args_for(str(self.known_hosts))
            ),
            "ansible_python_interpreter": PYTHON,
            "login": users.plain.name,
            "su_user": users.su.name,
            "su_password": users.su.password,
            "pw_user": users.pw.name,
            "pw_password": users.pw.password,
            "there": str(run / "there"),
            "here": str(run / "here"),
            "mark": mark,
            "run_id": users.run,
            "big_file": str(self.big_file),
        }
        groups = {
            "trio": dict.fromkeys(["one", "two", "three"]),
            "pythons": dict.fromkeys(name for name in members if name.startswith("python")),
        }
        children: dict[str, Any] = {name: {"hosts": names} for name, names in groups.items()}
        return {"all": {"vars": everyone, "hosts": members, "children": children}}

    def settings(self, way: ways.Way, run: pathlib.Path) -> str:
        """Return the run's ansible.cfg."""
        found: dict[str, dict[str, str]] = {
            "defaults": {
                "inventory": str(run / "inventory.json"),
                "library": "{}:{}".format(LIBRARY, self.library),
                "forks": "10",
                "timeout": "20",
            },
            "ssh_connection": {
                "pipelining": "true",
                "control_path_dir": str(run / "cp"),
                "ssh_args": "-C -o ControlMaster=auto -o ControlPersist=60s",
            },
        }
        for section, values in way.settings.items():
            found.setdefault(section, {}).update(values)
        lines = []
        for section, values in found.items():
            lines.append("[{}]".format(section))
            lines += ["{} = {}".format(name, value) for name, value in values.items()]
        return "\n".join(lines) + "\n"

    def prepare(self, way: ways.Way) -> tuple[pathlib.Path, str]:
        """Make the directory of a run; return it and the run's mark."""
        mark = "".join(next(self._marks))
        run = self.directory / mark
        for name in ("", "here", "there", "home", "tmp", "cp", "root_tmp"):
            (run / name).mkdir()
        for name in ("there", "root_tmp"):
            run.joinpath(name).chmod(0o1777)
        run.joinpath("cp").chmod(0o700)
        inventory = json.dumps(self.inventory(way, run, mark), indent=1)
        (run / "inventory.json").write_text(inventory)
        (run / "ansible.cfg").write_text(self.settings(way, run))
        return run, mark

    def environment(
        self, installed: environments.Environment, way: ways.Way, run: pathlib.Path
    ) -> dict[str, str]:
        """Return the environment of ansible-playbook, without the machine's own settings."""
        return {
            "PATH": "{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".format(
                installed.directory / "bin"
            ),
            "HOME": str(run / "home"),
            "ANSIBLE_HOME": str(run / "home" / ".ansible"),
            "ANSIBLE_CONFIG": str(run / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callbacks"),
            "BED_RESULTS": str(run / "results.jsonl"),
            "COLUMNS": "200",
            "LANG": "C.UTF-8",
            "TMPDIR": str(run / "tmp"),
            "USER": "root",
            processes.RUN_VARIABLE: os.environ[processes.RUN_VARIABLE],
            **way.environment,
        }

    # ---- running

    def run(
        self,
        release: str,
        way: str,
        playbook: Playbook,
        extra: Sequence[str] = (),
        cancelled: Optional[threading.Event] = None,
        limit: float = LIMIT,
        interrupt: Optional[Callable[[], object]] = None,
        meanwhile: Optional[Callable[[Running], object]] = None,
    ) -> Outcome:
        """Run *playbook* and return its result.

        :param release: one of `environments.ALL`.
        :param way: one of `ways.WAYS`.
        :param playbook: the playbook.
        :param extra: additional arguments for ansible-playbook.
        :param cancelled: an event that ends the run.
        :param limit: maximum duration in seconds.
        :param interrupt: called repeatedly; once it returns true, ^C is sent.
        :param meanwhile: called repeatedly, until it returns true.
        :raises AssertionError: it took longer, or was cancelled; all its processes have been ended.
        """
        installed = environments.ready(release)
        run, mark = self.prepare(ways.WAYS[way])
        if way == "plain":
            self._may_leave.update(playbook.leaves)

        def filled(text: str) -> str:
            return text.replace("{playbooks}", str(PLAYBOOKS)).replace("{run}", str(run))

        # It is an extra variable because a play's keywords can use no others.
        names = json.dumps({"way": way, **ways.WAYS[way].variables})
        argv = [installed.program("ansible-playbook"), "--extra-vars", names]
        argv += [*map(filled, playbook.arguments), *extra]
        environment = self.environment(installed, ways.WAYS[way], run)
        environment.update({key: filled(value) for key, value in playbook.environment.items()})
        started = time.monotonic()
        with open(str(run / "output"), "wb") as output:
            child = subprocess.Popen(
                [*argv, str(playbook.path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=str(run / "here"),
                start_new_session=True,
            )
        try:
            if interrupt is not None:
                meanwhile = self._when(interrupt)
            cpu = self._wait(Running(child, run), started + limit, cancelled, meanwhile)
        except BaseException:
            self._end_sessions(run)
            raise
        finally:
            self.end_masters(run)
        wall = time.monotonic() - started
        left = self._clean(run)
        printed = (run / "output").read_text(errors="surrogateescape")
        # These come before the other rules, whose patterns could match inside them.
        replace = [
            (str(run), "RUN"),
            ("_" + mark, "_MARK"),
            (installed.version, "RELEASE"),
            (str(self.sshd.port), "PORT"),
        ]
        # Settings of this way appear in some results.
        names = ways.WAYS[way].variables.items()
        replace += [(value, ways.NAMES[key]) for key, value in names if value != ways.NAMES[key]]
        records = self._records(run)
        return Outcome(playbook, run, child.returncode, records, printed, wall, cpu, left, replace)

    @staticmethod
    def _records(run: pathlib.Path) -> list[dict[str, Any]]:
        try:
            lines = (run / "results.jsonl").read_text(errors="surrogateescape").splitlines()
        except FileNotFoundError:  # it ended before plugins were loaded: see its output
            return []
        return [json.loads(line) for line in lines]

    @staticmethod
    def _when(interrupt: Callable[[], object]) -> Callable[[Running], object]:
        """Return a `meanwhile` that sends ^C."""

        def press(running: Running) -> bool:
            if not interrupt():
                return False
            os.killpg(running.child.pid, signal.SIGINT)  # as a terminal does
            return True

        return press

    @staticmethod
    def _wait(
        running: Running,
        deadline: float,
        cancelled: Optional[threading.Event],
        meanwhile: Optional[Callable[[Running], object]],
    ) -> float:
        """Wait for the end of a run; return the processor time used by it and its children."""
        child = running.child
        ends = os.pidfd_open(child.pid)
        try:
            while time.monotonic() < deadline and not (cancelled and cancelled.is_set()):
                if select.select([ends], [], [], POLL)[0]:
                    _, status, usage = os.wait4(child.pid, 0)
                    child.returncode = os.waitstatus_to_exitcode(status)
                    return usage.ru_utime + usage.ru_stime
                if meanwhile is not None and meanwhile(running):
                    meanwhile = None
        finally:
            os.close(ends)
        tree = processes.process_tree(child.pid)
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        processes.end_processes(tree)
        child.kill()
        child.wait()
        raise AssertionError("ansible-playbook was ended: it took too long or was cancelled")

    @staticmethod
    def _end_sessions(run: pathlib.Path) -> None:
        """End processes that an aborted run left on the host, as it happens with plain Ansible."""
        marked = [
            each
            for each in processes.processes().values()
            if processes.environment(each.pid).get(RUN_MARK) == str(run)
        ]
        below = [child for each in marked for child in processes.process_tree(each.pid)]
        processes.end_processes(marked + below)

    @staticmethod
    def end_masters(run: pathlib.Path) -> None:
        """End ssh masters, which would otherwise wait for ControlPersist's minute."""
        for path in (run / "cp").iterdir():
            command = [
                "ssh",
                "-F",
                "/dev/null",
                "-O",
                "exit",
                "-o",
                "ControlPath=" + str(path),
                "x",
            ]
            subprocess.run(command, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)

    @staticmethod
    def _clean(run: pathlib.Path) -> list[str]:
        """Remove a run's files except results; return files that Ansible should have removed."""
        tops = [run / "tmp", run / "home" / ".ansible" / "tmp"]

        def found() -> list[str]:
            return [str(each.relative_to(run)) for top in tops for each in sorted(top.rglob("*"))]

        # If ansible-playbook was killed, our own process is about to remove its directory.
        with contextlib.suppress(AssertionError):
            processes.wait_until(lambda: not any("mitogen" in name for name in found()), SETTLE)
        left = found()
        for name in ("here", "there", "home", "tmp", "cp"):
            shutil.rmtree(str(run / name), ignore_errors=True)
        return left
