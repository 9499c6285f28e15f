"""Hosts that tests log in to, all on this machine: a private sshd, accounts, Pythons.

Rules: nothing is started at import. Each object cleans up after itself, even when a test fails, and
each run removes the leftovers of killed runs. root's own ~/.ssh, the machine's sshd_config and its
accounts are never touched. Names include the pid of the test run, so several runs can share a
machine. There is one /etc/doas.conf for all: each run keeps its own marked block in it.

The accounts' files are in a separate directory readable by all, because pytest's directories have
mode 0700.
"""

import contextlib
import fcntl
import functools
import glob
import os
import pathlib
import pty
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

from tests import processes
from tests.checkout import ROOT

__all__ = [
    "Accounts",
    "Sshd",
    "User",
    "closed_port",
    "converse",
    "delay_proxy_args",
    "find_pypy",
    "find_pythons",
    "program",
    "silent_listener",
    "usable_by_others",
]

HERE = pathlib.Path(__file__).resolve().parent
FORKY = ROOT / ".cache" / "forky"
PREFIX = "mito_"
ACCOUNT = re.compile(r"mito_[a-z]+_(\d+)\Z")
LOCK = "/run/mito_tests.lock"  # useradd and /etc/doas.conf: one run at a time
DOAS_CONF = pathlib.Path("/etc/doas.conf")
SUDOERS = pathlib.Path("/etc/sudoers.d")
# Files that other programs write to a home directory: fish keeps its settings there.
HOME_MAY_GROW = re.compile(r"\.(config|cache|local(/share)?)(/fish(/.*)?)?\Z")

MOTD = "echo 'Welcome to the noisy host.'\necho 'All use is $ logged. password: none' >&2\n"
MENU = "#!/bin/sh\necho 'This account has a menu:'\nexec /bin/sh\n"
REFUSE = "#!/bin/sh\necho 'This account is for transfers only.'\nexit 7\n"


class Kind(NamedTuple):
    """A kind of test account: login shell, ~/.bashrc, rules for sudo and doas."""

    shell: str = "/bin/bash"
    bashrc: str = ""  # bash started by sshd reads it even for `ssh host command`
    sudo: str = ""  # lines for sudoers; {user} is filled in
    doas: str = ""


PASSWORD_SUDO = "{user} ALL=(ALL:ALL) ALL\nDefaults:{user} timestamp_timeout=0, !lecture\n"
FREE_SUDO = "{user} ALL=(ALL:ALL) NOPASSWD: ALL\n"

# name -> Kind. The password of `x` is `x_password`.
KINDS = {
    # Needs no password anywhere.
    "plain": Kind(sudo=FREE_SUDO, doas="permit nopass {env} {user}"),
    # Needs the password for sudo and doas, each time.
    "pw": Kind(sudo=PASSWORD_SUDO, doas="permit {env} {user}"),
    # Can use sudo only with a terminal.
    "req": Kind(sudo=FREE_SUDO + "Defaults:{user} requiretty\n"),
    # May run nothing as another account; the target of su.
    "su": Kind(),
    # Prints on both stdout and stderr before anything else.
    "motd": Kind(bashrc=MOTD),
    # Reads the first line of stdin, if one arrives within a second.
    "line": Kind(bashrc="read -r -t 1 eaten\n"),
    # Reads up to 4 KiB of stdin within a second, as a careless rc file in the field did.
    "eats": Kind(bashrc="timeout 1 head -c 4096 >/dev/null\n"),
    # Reads all of stdin and never continues: only a deadline ends it.
    "drain": Kind(bashrc="cat >/dev/null\n"),
    "csh": Kind(shell="/bin/csh"),
    "fish": Kind(shell="/usr/bin/fish"),
    # The login shell is a script that ignores the command and then runs a shell.
    "menu": Kind(shell="{directory}/menu"),
    # The login shell is a script that refuses logins.
    "refuse": Kind(shell="{directory}/refuse"),
}


def program(name: str) -> Optional[str]:
    """Return the path of a program, searching also the directories that are only on root's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def run(*argv: str, **kwargs: Any) -> str:
    """Run a program to its end and return its output; a failure's error includes the output."""
    kwargs.setdefault("stdin", subprocess.DEVNULL if "input" not in kwargs else None)
    if kwargs["stdin"] is None:
        del kwargs["stdin"]
    kwargs.setdefault("timeout", 30)
    done = subprocess.run(argv, capture_output=True, text=True, **kwargs)
    if done.returncode:
        raise AssertionError(
            "{} ended with {}:\n{}{}".format(argv, done.returncode, done.stdout, done.stderr)
        )
    return done.stdout


# ---- sshd


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def read_banner(port: int) -> bytes:
    """Connect to *port* and return an SSH server's greeting line; b'' if nothing listens there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            return sock.makefile("rb").readline()
    except OSError:
        return b""


def make_key(path: pathlib.Path) -> str:
    """Generate an ed25519 key without passphrase at *path*; return its public line."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mitogen tests", "-f", str(path))
    return path.with_suffix(".pub").read_text()


class Keys:
    """The key pairs of one run: two host keys (the correct one, a wrong one) and a user key."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.host = directory / "host_key"
        self.host_public = make_key(self.host)
        self.wrong_public = make_key(directory / "wrong_host_key")
        self.user = directory / "id_ed25519"
        authorized = directory / "authorized_keys"
        authorized.write_text(make_key(self.user))
        authorized.chmod(0o644)


class Sshd:
    """A private sshd on 127.0.0.1, from `start()` to `stop()`.

    It accepts `identity_file` for every account, and passwords (as root). All files it reads and
    writes are in *directory*.

    :param extra: lines put first in sshd_config, where they take precedence: `ForceCommand ...`,
        `Banner ...`; `{port}` in them is replaced by the port.
    """

    hostname = "127.0.0.1"

    def __init__(self, directory: pathlib.Path, keys: Keys, extra: Sequence[str] = ()) -> None:
        self.directory = directory
        self.keys = keys
        self.extra = list(extra)
        self.port = 0
        self.identity_file = str(keys.user)
        self.log_path = directory / "sshd.log"
        self.known_hosts = str(directory / "known_hosts")
        self.bad_known_hosts = str(directory / "bad_known_hosts")
        self.no_known_hosts = str(directory / "no_known_hosts")
        self._process: Optional[subprocess.Popen[bytes]] = None

    def _config(self) -> str:
        root = os.geteuid() == 0
        sftp = (
            "internal-sftp"
            if not os.path.exists("/usr/lib/openssh/sftp-server")
            else ("/usr/lib/openssh/sftp-server")
        )
        lines = [line.replace("{port}", str(self.port)) for line in self.extra] + [
            "ListenAddress 127.0.0.1:{}".format(self.port),
            "HostKey {}".format(self.keys.host),
            "AuthorizedKeysFile {}/authorized_keys".format(self.keys.directory),
            "PidFile {}/sshd.pid".format(self.directory),
            "PermitRootLogin yes",
            "PubkeyAuthentication yes",
            "PasswordAuthentication {}".format("yes" if root else "no"),
            "KbdInteractiveAuthentication no",
            "UsePAM {}".format("yes" if root else "no"),
            "StrictModes no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "AcceptEnv *",
            "SetEnv {}={}".format(processes.RUN_VARIABLE, os.environ[processes.RUN_VARIABLE]),
            "Subsystem sftp {}".format(sftp),
            "LogLevel VERBOSE",
        ]
        return "\n".join(lines) + "\n"

    def start(self) -> "Sshd":
        """Start sshd; return once it sends its banner. Retry if the port was taken."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            # sshd's privilege separation needs this directory; Debian makes it when the service
            # starts.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        for _ in range(5):
            self.port = free_port()
            if self._start_on_port():
                break
        else:
            raise AssertionError("sshd does not start:\n" + self.log())
        where = "[{}]:{} ".format(self.hostname, self.port)
        pathlib.Path(self.known_hosts).write_text(where + self.keys.host_public)
        pathlib.Path(self.bad_known_hosts).write_text(where + self.keys.wrong_public)
        pathlib.Path(self.no_known_hosts).write_text("")
        return self

    def _start_on_port(self) -> bool:
        config = self.directory / "sshd_config"
        config.write_text(self._config())
        sshd = program("sshd")  # must be absolute: sshd runs itself again for each connection
        assert sshd is not None
        # It ends with this process, even if we are killed: nothing else would end it.
        command = ["setpriv", "--pdeathsig", "TERM"] if program("setpriv") else []
        command += [sshd, "-D", "-e", "-f", str(config)]
        with self.log_path.open("ab") as log:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._process = started
        processes.wait_until(
            lambda: started.poll() is not None or read_banner(self.port).startswith(b"SSH-2.0-"),
            timeout=10,
            what="banner of sshd",
        )
        return started.poll() is None

    @property
    def pid(self) -> int:
        """The pid of the listening process; sessions are its descendants."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> list[processes.Process]:
        """End the listener by its pid, then sessions that outlive it; return those.

        Sessions whose client is gone get 5 s to end by themselves.
        """
        assert self._process is not None
        sessions = processes.process_tree(self.pid)
        self._process.terminate()
        self._process.wait(10)
        try:
            processes.wait_until(lambda: not any(processes.alive(each.pid) for each in sessions))
        except AssertionError:
            left = [each for each in sessions if processes.alive(each.pid)]
            processes.end_processes(left)
            return left
        return []

    def restart(self) -> None:
        """End the listener and start another on the same port; sessions continue."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
        self.resume()

    def halt(self) -> None:
        """End the listener and its sessions' processes at once, like a machine losing power."""
        assert self._process is not None
        below = processes.process_tree(self.pid)
        self._process.terminate()
        for each in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        self._process.wait(10)

    def resume(self) -> None:
        """Start sshd again on the same port."""
        if not self._start_on_port():
            raise AssertionError("sshd does not start again:\n" + self.log())

    def log(self) -> str:
        """Return sshd's log so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def ssh_args(self) -> list[str]:
        """Return ssh options with the correct host key, independent of this machine's settings."""
        return self.ssh_args_for(self.known_hosts)

    def ssh_args_for(self, known_hosts: str) -> list[str]:
        """Return `ssh_args` with another file of host keys, such as `bad_known_hosts`."""
        options = ["UserKnownHostsFile=" + known_hosts, "GlobalKnownHostsFile=/dev/null"]
        return ["-F", "/dev/null"] + [arg for option in options for arg in ("-o", option)]

    def kwargs(self, **more: Any) -> dict[str, Any]:
        """Return keyword arguments for `router.ssh()`: root (or this user) by key, and *more*."""
        kwargs: dict[str, Any] = {
            "hostname": self.hostname,
            "port": self.port,
            "username": pwd.getpwuid(os.geteuid()).pw_name,
            "identity_file": self.identity_file,
            "ssh_args": self.ssh_args,
            "check_host_keys": "enforce",
        }
        kwargs.update(more)
        return kwargs

    def command(self, user: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """Return the argv of a plain `ssh` that logs in as *user* by key and never prompts."""
        return (
            ["ssh", "-p", str(self.port), "-i", self.identity_file, "-o", "BatchMode=yes"]
            + ["-o", "IdentitiesOnly=yes", *options, *self.ssh_args, user + "@" + self.hostname]
            + list(command)
        )


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """Yield a port whose connections the kernel accepts and nothing answers."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        yield sock.getsockname()[1]


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that refuses connections, reserved so that no other process opens it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def delay_proxy_args(delay_ms: float, count: Optional[str] = None) -> list[str]:
    """Return ssh options that route the connection through tests/delay_proxy.py.

    :param delay_ms: round trip to add, in milliseconds.
    :param count: file to which the proxy writes its counts; see its docstring.
    """
    command = [sys.executable, "-S", "-E", str(HERE / "delay_proxy.py"), "%h", "%p", str(delay_ms)]
    command += ["--count", count] if count else []
    return ["-o", "ProxyCommand=" + " ".join(command)]


# ---- accounts


class User(NamedTuple):
    """A test account."""

    name: str
    password: str
    home: str
    uid: int


class Accounts:
    """The test accounts of this run, as attributes: `accounts.plain`, `.pw`, ... (see KINDS).

    Use it as a context manager; needs root.
    """

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory
        self.run = str(os.getpid())
        self.users: dict[str, User] = {}
        self._homes: dict[str, list[str]] = {}
        self._sudoers = SUDOERS / (PREFIX + self.run)

    def __getattr__(self, name: str) -> User:
        try:
            return self.__dict__["users"][name]
        except KeyError:
            raise AttributeError("no test account {!r}; see KINDS".format(name)) from None

    def __iter__(self) -> Iterator[User]:
        return iter(self.users.values())

    def __enter__(self) -> "Accounts":
        try:
            with exclusively():
                remove_stale_accounts()
                self._make_shells()
                self._add_users()
                self._write_sudoers()
                self._write_doas()
        except BaseException:
            self.__exit__()
            raise
        self._homes = {user.home: files_below(user.home) for user in self}
        return self

    def __exit__(self, *exc_info: object) -> None:
        with exclusively():
            self._sudoers.unlink(missing_ok=True)
            edit_doas(self.run, [])
            for name in [PREFIX + kind + "_" + self.run for kind in KINDS]:
                remove_account(name)

    def new_files(self) -> list[str]:
        """Return the files that have appeared in the accounts' homes since they were made."""
        return [
            os.path.join(home, path)
            for home, before in self._homes.items()
            for path in files_below(home)
            if path not in before and not HOME_MAY_GROW.match(path)
        ]

    def _make_shells(self) -> None:
        for name, text in (("menu", MENU), ("refuse", REFUSE)):
            path = self.directory / name
            path.write_text(text)
            path.chmod(0o755)

    def _add_users(self) -> None:
        passwords = []
        for kind, what in KINDS.items():
            shell = what.shell.format(directory=self.directory)
            if not os.path.exists(shell):
                continue  # fish or csh is not installed: no such account; its tests are skipped
            name = PREFIX + kind + "_" + self.run
            run("useradd", "-m", "-s", shell, "-c", "mitogen tests", name)
            entry = pwd.getpwnam(name)
            user = User(name, kind + "_password", entry.pw_dir, entry.pw_uid)
            self.users[kind] = user
            passwords.append(user.name + ":" + user.password)
            if what.bashrc:
                # This replaces Debian's file, which does nothing without a terminal.
                pathlib.Path(user.home, ".bashrc").write_text(what.bashrc)
        run("chpasswd", input="\n".join(passwords) + "\n")

    def _write_sudoers(self) -> None:
        lines = []
        for kind, user in self.users.items():
            rules = KINDS[kind].sudo.format(user=user.name)
            if rules:
                keep = 'Defaults:{} env_keep += "{}"\n'.format(user.name, processes.RUN_VARIABLE)
                lines.append(rules + keep)
        # sudo ignores files in sudoers.d with a dot in their name, so this file is checked before
        # it is renamed.
        draft = self._sudoers.with_suffix(".new")
        draft.touch(mode=0o440)
        try:
            draft.write_text("".join(lines))
            run(program("visudo") or "visudo", "-c", "-q", "-f", str(draft))
            draft.rename(self._sudoers)
        finally:
            draft.unlink(missing_ok=True)

    def _write_doas(self) -> None:
        mark = "setenv {{ {}={} }}".format(processes.RUN_VARIABLE, self.run)
        rules = [
            KINDS[kind].doas.format(user=user.name, env=mark)
            for kind, user in self.users.items()
            if KINDS[kind].doas
        ]
        edit_doas(self.run, rules)
        if program("doas"):
            run("doas", "-C", str(DOAS_CONF))


@contextlib.contextmanager
def exclusively() -> Iterator[None]:
    """Hold this machine's lock for test runs."""
    with open(LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def files_below(directory: str) -> list[str]:
    """Return the relative paths of all files below *directory*."""
    found = []
    for where, directories, files in os.walk(directory):
        found += [
            os.path.relpath(os.path.join(where, name), directory) for name in directories + files
        ]
    return found


def edit_doas(run_id: str, rules: list[str]) -> None:
    """Write *rules* as this run's block of /etc/doas.conf, or remove the block if *rules* is empty.

    The rest of the file stays as it is, byte for byte; a file that we created is removed when it is
    empty.
    """
    begin, end = ("# mitogen tests {} {}\n".format(run_id, word) for word in ("begin", "end"))
    before = DOAS_CONF.read_text() if DOAS_CONF.exists() else ""
    block = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    text = block.sub("", before)
    if rules:
        text += begin + "".join(rule + "\n" for rule in rules) + end
    if text == before:
        return
    if not text:
        DOAS_CONF.unlink()
        return
    mode = stat.S_IMODE(DOAS_CONF.stat().st_mode) if before else 0o400
    draft = DOAS_CONF.with_name("doas.conf.mito_new")
    draft.touch(mode=mode)
    draft.write_text(text)
    draft.rename(DOAS_CONF)


def remove_account(name: str) -> None:
    """Remove an account with its processes (each by its pid), home and entries in sudo's files."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return
    processes.end_processes([each for each in processes.processes().values() if each.uid == uid])
    subprocess.run(["userdel", "-r", "-f", name], capture_output=True, timeout=30)
    for directory in ("/run/sudo/ts", "/var/lib/sudo/lectured"):
        for trace in (name, str(uid)):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(directory, trace))
    if any(entry.pw_name == name for entry in pwd.getpwall()):
        raise AssertionError("cannot remove the account " + name)


def remove_stale_accounts() -> None:
    """Remove accounts, rules and directories left by runs that were killed."""
    stale = set()
    names = [entry.pw_name for entry in pwd.getpwall()] + os.listdir(str(SUDOERS))
    if DOAS_CONF.exists():
        names += ["mito_doas_" + n for n in re.findall(r"tests (\d+) begin", DOAS_CONF.read_text())]
    for name in names:
        match = ACCOUNT.match(name) or re.match(r"mito_(\d+)\Z", name)
        if match and not processes.alive(int(match.group(1))):
            stale.add(match.group(1))
            remove_account(name)
    for run_id in stale:
        (SUDOERS / (PREFIX + run_id)).unlink(missing_ok=True)
        edit_doas(run_id, [])


def make_directory() -> pathlib.Path:
    """Make a directory that test accounts can read; its name identifies the run.

    Directories of killed runs are removed.
    """
    for stale in glob.glob("/tmp/mito_hosts_*_*"):
        if not processes.alive(int(stale.split("_")[2])):
            shutil.rmtree(stale, ignore_errors=True)
    path = tempfile.mkdtemp(prefix="mito_hosts_{}_".format(os.getpid()), dir="/tmp")
    os.chmod(path, 0o755)
    return pathlib.Path(path)


# ---- terminals, interpreters


def converse(
    argv: Sequence[str], answers: Sequence[tuple[str, str]] = (), timeout: float = 15.0
) -> tuple[int, str]:
    """Run *argv* on a terminal of its own, as a person would; return (exit status, all output).

    :param answers: (regular expression, line to type when the output since the last one matches).
    :param timeout: seconds for the whole run; afterwards the program is killed and AssertionError
        raised.
    """
    master, slave = pty.openpty()
    try:
        # setsid makes the terminal the controlling one; a preexec_fn is not safe with threads.
        child = subprocess.Popen(
            ["setsid", "-c", "-w", *argv], stdin=slave, stdout=slave, stderr=slave
        )
    finally:
        os.close(slave)
    deadline = time.monotonic() + timeout
    waiting, output, seen = list(answers), "", 0
    try:
        while True:
            ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError("{}: no end in {} s:\n{}".format(argv, timeout, output))
            try:
                data = os.read(master, 65536)
            except OSError:  # Linux reports EIO when the last process has closed the terminal
                data = b""
            if not data:
                return child.wait(max(0.1, deadline - time.monotonic())), output
            output += data.decode(errors="replace")
            if waiting and re.search(waiting[0][0], output[seen:]):
                os.write(master, waiting.pop(0)[1].encode() + b"\n")
                seen = len(output)
    finally:
        os.close(master)
        if child.poll() is None:
            child.kill()
            child.wait()


ASK_VERSION = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys.executable)"


def ask_version(path: str) -> Optional[tuple[tuple[int, int], str]]:
    """Run the Python at *path*; return (version, sys.executable), None if it is not a Python."""
    try:
        done = subprocess.run(
            [path, "-S", "-E", "-c", ASK_VERSION],
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
        version, executable = done.stdout.split("\n")[:2]
        major, minor = version.split(".")
        return (int(major), int(minor)), executable
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def forky(pattern: str) -> list[pathlib.Path]:
    """Return the interpreters of that name in .cache/forky; none if it is incomplete."""
    found = FORKY.glob("usr/patched/" + pattern) if (FORKY / "stamp").exists() else []
    return sorted(found)


@functools.cache
def find_pypy() -> Optional[str]:
    """Return the path of a PyPy, from PATH or .cache/forky; None if there is none."""
    for path in [shutil.which("pypy3"), *map(str, forky("pypy3"))]:
        if path and ask_version(path):
            return path
    return None


@functools.cache
def find_pythons() -> dict[tuple[int, int], str]:
    """Return {(3, 6): '/path/to/python3.6', ...} for this machine, by version.

    They come from pyenv, PATH and the Debian in .cache/forky (scripts/_forky). Each has been run.
    2.7 is listed too. pyenv's interpreter is chosen where several have the same version (those on
    PATH are often only pyenv's shims). The test accounts cannot run interpreters below /root; see
    `usable_by_others()`.
    """
    names = ["python{}.{}".format(3, minor) for minor in range(4, 20)] + ["python2.7", "python3"]
    candidates = []
    if shutil.which("pyenv"):
        root = run("pyenv", "root").strip()
        candidates += sorted(glob.glob(os.path.join(root, "versions", "*", "bin", "python")))
    candidates += [found for found in map(shutil.which, names) if found and "/shims/" not in found]
    candidates += ["/usr/bin/python3", *map(str, forky("python3.*"))]
    pythons: dict[tuple[int, int], str] = {}
    for candidate in candidates:
        # The interpreter of a virtual environment is not a usable target: it depends on another
        # one.
        if os.path.exists(os.path.join(os.path.dirname(candidate), "..", "pyvenv.cfg")):
            continue
        answer = ask_version(candidate)
        if answer:
            pythons.setdefault(*answer)
    return dict(sorted(pythons.items()))


def usable_by_others(path: str) -> bool:
    """Return whether other accounts can run *path*: every directory above it is o+x."""
    resolved = pathlib.Path(path).resolve()
    return all(each.stat().st_mode & stat.S_IXOTH for each in [resolved, *resolved.parents])
