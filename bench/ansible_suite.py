"""Run the cases of ansible_rows.py with plain Ansible, the peer and ours in turn; print the rows.

Rules: each subject has its own virtual environment in the scratch directory, with the same
ansible-core and interpreter; ours is the checkout, installed by pip. Each also has its own home
(ANSIBLE_HOME), like an account, with the files kept by earlier runs. A round is one run of each.
Processor time is that of ansible-playbook and all processes it left behind: a separate process per
run adopts those (PR_SET_CHILD_SUBREAPER, prctl(2)) and waits for them. The sshds, and so the
processes on the hosts, are not included.
"""

import argparse
import concurrent.futures
import contextlib
import ctypes
import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from bench import ansible_rows, hosts, report
from tests import hosts as tests_hosts, processes

__all__ = ["main"]

PEER = hosts.PEERS["peer"]
PR_SET_CHILD_SUBREAPER = 36
#: Maximum seconds of a run, and for its remaining processes to end.
LIMIT, GRACE = 300, 20
#: Addresses that one sshd listens on: its MAX_LISTEN_SOCKS is 16, and it has 127.0.0.1 too.
ADDRESSES = 15
SSHD_LINES = ["MaxSessions 100", "MaxStartups 200"]
#: Only the system's programs: an ordinary host lacks the directories that a developer's .bashrc
#: adds to PATH.
FORCED = 'HOME={} PATH=/usr/sbin:/usr/bin:/sbin:/bin exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
CONFIG = """\
[defaults]
host_key_checking = True
local_tmp = {run}/tmp
remote_tmp = {run}/remote
gathering = explicit
inventory = {run}/inventory.json
retry_files_enabled = False
deprecation_warnings = False
home = {home}
{more}
[ssh_connection]
pipelining = True
ssh_args = -C -o ControlMaster=auto -o ControlPersist=60s
control_path_dir = {run}/cp
"""
MORE = {
    "plain": "",
    "peer": "strategy = mitogen_linear\n"
    "strategy_plugins = {site}/ansible_mitogen/plugins/strategy\n",
    "ours": "callbacks_enabled = mitogen.ansible.mitogen\n",
}
PACKAGES = {"plain": [], "peer": [PEER], "ours": ["{checkout}"]}


class Environment:
    """A subject's virtual environment.

    :param scratch: directory in which it is made and kept.
    :param subject: of ansible_rows.SUBJECTS.
    :param core: ansible-core's version for pip: `2.19.*`.
    :param python: the interpreter.
    """

    def __init__(self, scratch, subject, core, python):
        self.subject = subject
        self.path = pathlib.Path(scratch, "ansible-{}-{}".format(subject, core.rstrip(".*")))
        stamp = self.path / "stamp"
        wanted = json.dumps([core, python, PACKAGES[subject]])
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(self.path, ignore_errors=True)
            self._run(python, "-m", "venv", self.path)
            self._pip(
                "ansible-core=={}".format(core), *(p for p in PACKAGES[subject] if "{" not in p)
            )
            stamp.write_text(wanted)
        if subject == "ours":
            with tempfile.TemporaryDirectory() as copy:
                self._install_checkout(pathlib.Path(copy, "checkout"))
        self.site = str(next(self.path.glob("lib/python*/site-packages")))

    def _install_checkout(self, copy):
        # Install from a copy, because setup.py leaves its build/ there.
        copy.mkdir()
        for name in ("mitogen", "ansible_plugins", "setup.py", "README.rst"):
            source = hosts.ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        self._pip("--no-deps", "--force-reinstall", str(copy))

    def _pip(self, *words):
        quiet = ["-q", "--disable-pip-version-check"]
        self._run(self.path / "bin" / "python", "-m", "pip", "install", *quiet, *words)

    @staticmethod
    def _run(*argv):
        subprocess.run(
            [str(word) for word in argv], check=True, env=hosts.clean_environment(), cwd="/"
        )


@contextlib.contextmanager
def sshds(count):
    """Start sshds for that many hosts; yield [(address, Sshd)], one per host."""
    found = []
    with contextlib.ExitStack() as stack:
        directory = tests_hosts.make_directory()
        stack.callback(shutil.rmtree, directory, True)
        keys = tests_hosts.Keys(directory)
        (directory / "home").mkdir()
        forced = "ForceCommand " + FORCED.format(directory / "home")
        for first in range(1, count + 1, ADDRESSES):
            addresses = ["127.0.1.%d" % n for n in range(first, min(first + ADDRESSES, count + 1))]
            lines = ["ListenAddress %s:{port}" % address for address in addresses]
            sshd = tests_hosts.Sshd(
                directory / ("sshd%d" % first), keys, [*SSHD_LINES, forced, *lines]
            )
            sshd.start()
            stack.callback(sshd.stop)
            found += [(address, sshd) for address in addresses]
        yield found


class Run:
    """One run of a case, in its own directory: configuration, inventory, playbook.

    :param directory: its directory.
    :param places: [(address, Sshd)] of the hosts.
    :param big: directory of large files.
    """

    def __init__(self, directory, places, big):
        self.directory = pathlib.Path(directory)
        self.places = places
        self.big = big
        self.counts = self.directory / "counts"
        for name in ("counts", "cp"):
            (self.directory / name).mkdir()

    def _inventory(self, case):
        known = self.directory / "known_hosts"
        known.write_text("[127.0.1.*]:* " + self.places[0][1].keys.host_public)
        arguments = ["-o", "UserKnownHostsFile={}".format(known)]
        if case.link:
            proxy = [sys.executable, "-SE", str(hosts.ROOT / "tests" / "delay_proxy.py")]
            proxy += ["%h", "%p", "20" if case.link == "slow" else "0"]
            count = " --count {}/$$".format(self.counts)
            arguments += ["-o", "'ProxyCommand={}{}'".format(" ".join(proxy), count)]
        variables = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": self.places[0][1].identity_file,
            "ansible_ssh_common_args": " ".join(arguments),
            "big": str(self.big),
            "other": "nobody",
            "there": str(self.directory / "there") + "-{{ inventory_hostname }}",
        }
        names = {
            "h%d" % number: {"ansible_host": address, "ansible_port": sshd.port}
            for number, (address, sshd) in enumerate(self.places[: case.hosts])
        }
        return {"all": {"hosts": names, "vars": variables}}

    def prepare(self, environment, case):
        """Write the files for ansible-playbook; return its command line and environment."""
        more = MORE[environment.subject].format(site=environment.site)
        config = CONFIG.format(run=self.directory, home=environment.path / "home", more=more)
        (self.directory / "ansible.cfg").write_text(config)
        (self.directory / "inventory.json").write_text(json.dumps(self._inventory(case)))
        (self.directory / "playbook.yml").write_text(case.text)
        (self.directory / "template.j2").write_text("of {{ inventory_hostname }}\nfour\n")
        env = hosts.clean_environment()
        env = {name: value for name, value in env.items() if not name.startswith("ANSIBLE")}
        env["ANSIBLE_CONFIG"] = str(self.directory / "ansible.cfg")
        program = environment.path / "bin" / "ansible-playbook"
        return [str(program), "-f", str(case.forks), str(self.directory / "playbook.yml")], env

    def numbers(self):
        """Return the proxies' counts."""
        # A process' unfinished count files are skipped.
        found = [json.loads(p.read_text()) for p in self.counts.iterdir() if p.name.isdigit()]
        return {
            "logins": len(found),
            "trips": sum(each["up_flights"] for each in found),
            "sent": sum(each["up_bytes"] for each in found),
        }


def adopt():
    """Make this process the parent of our children's orphans."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def children():
    """Return the pids of our children, including adopted ones."""
    text = pathlib.Path("/proc/self/task/{}/children".format(os.getpid())).read_text()
    return [int(word) for word in text.split()]


def end_rest():
    """End a run's remaining processes, such as ControlPersist masters; return when all are gone."""
    deadline = time.monotonic() + GRACE
    while True:
        rest = children()
        if not rest:
            return
        for pid in rest:
            name = pathlib.Path("/proc/{}/comm".format(pid)).read_text().strip()
            if name == "ssh" or time.monotonic() > deadline:
                os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)


def timed(argv, env, cwd):
    """Run a command and wait for all processes it leaves behind; return its numbers.

    The calling process must have no other children, such as sshds: orphans of their sessions would
    be adopted and counted too.
    """
    adopt()
    start = time.monotonic()
    done = subprocess.Popen(
        argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = done.communicate(timeout=LIMIT)
        wall = time.monotonic() - start
    except subprocess.TimeoutExpired:
        # SIGKILL would leave its workers running. The terminal has sent ^C to it as well as to us.
        done.send_signal(signal.SIGINT)
        raise
    finally:
        end_rest()
    if done.returncode:
        raise RuntimeError(output.decode(errors="replace")[-2000:])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime}


def measure(environment, case, places, big):
    """Run a case once; return its numbers."""
    # The path must be short, because it contains ssh's control sockets.
    with tempfile.TemporaryDirectory(prefix="ba", dir="/tmp") as directory:
        run = Run(directory, places, big)
        argv, env = run.prepare(environment, case)
        with concurrent.futures.ProcessPoolExecutor(1) as pool:
            numbers = pool.submit(timed, argv, env, directory).result()
        return {**numbers, **run.numbers()}


def value(row, subject, samples):
    """Return the median of a row for a subject, None if there is none."""

    def median(case):
        found = [sample[row.key] for sample in samples.get((case, subject), ())]
        return statistics.median(found) if found else None

    number = median(row.case)
    if number is None or not row.less:
        return number
    less = median(row.less)
    return None if less is None else (number - less) / row.per


def bound_text(limit, found):
    """Return a bound with its verdict."""
    if limit is None or found is None:
        return ""
    return "{:.2f} {} {:g}".format(found, "<=" if found <= limit else "OVER", limit)


def table(rows, samples):
    """Return the rows as text."""
    lines = [("", *ansible_rows.SUBJECTS, "ours/plain", "ours/peer", "ours")]
    for row in rows:
        plain, peer, ours = (value(row, subject, samples) for subject in ansible_rows.SUBJECTS)
        lines.append(
            (
                row.what,
                *map(report.format_number, (plain, peer, ours)),
                bound_text(row.plain, report.ratio(ours, plain)),
                bound_text(row.peer, report.ratio(ours, peer)),
                bound_text(row.ours, ours),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def arguments():
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="bench/ansible", description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="cases to run: " + " ".join(ansible_rows.CASES))
    parser.add_argument("--core", default="2.19.*", help="version of ansible-core (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", help="directory for environments, kept between runs")
    parser.add_argument("--python", help="interpreter of the controllers")
    parser.add_argument("--subjects", nargs="+", default=ansible_rows.SUBJECTS)
    parser.add_argument(
        "--one-cpu", action="store_true", help="controller and hosts on one processor"
    )
    parser.add_argument("--json", help="write all samples to this file")
    found = parser.parse_args()
    unknown = set(found.cases) - set(ansible_rows.CASES)
    if unknown:
        parser.error("unknown case: {}".format(" ".join(sorted(unknown))))
    return found


def needed(names):
    """Return the cases with these names, and the cases subtracted in their rows."""
    less = {row.less for row in ansible_rows.ROWS if row.less and row.case in names}
    return [name for name in ansible_rows.CASES if not names or name in names or name in less]


def run_all(options, scratch, places):
    """Run the cases; return {(case, subject): [numbers]}."""
    python = options.python or hosts.find_python(None)
    environments = [Environment(scratch, name, options.core, python) for name in options.subjects]
    big = scratch / "big"
    make_big(big)
    samples = {}
    for name in needed(options.cases):
        case = ansible_rows.CASES[name]
        for _ in range(min(options.rounds, case.rounds)):
            for environment in environments:
                key = name, environment.subject
                try:
                    samples.setdefault(key, []).append(measure(environment, case, places, big))
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print("ERROR {} {}: {}".format(*key, error), file=sys.stderr)
        report_case(name, samples)
    return samples


def report_case(name, samples):
    for (case, subject), found in samples.items():
        if case == name and found:
            walls = " ".join("{:.2f}".format(each["wall"]) for each in found)
            cpus = " ".join("{:.2f}".format(each["cpu"]) for each in found)
            print("{} {}: wall {}, cpu {}".format(name, subject, walls, cpus), file=sys.stderr)


def make_big(directory):
    """Make 20 files of 1 MiB that can't be compressed."""
    directory.mkdir(exist_ok=True)
    for number in range(20):
        (directory / str(number)).write_bytes(os.urandom(1 << 20))


def main():
    """Run the cases given on the command line."""
    options = arguments()
    os.environ[processes.RUN_VARIABLE] = str(os.getpid())
    if options.one_cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with contextlib.ExitStack() as stack:
        scratch = options.scratch or stack.enter_context(tempfile.TemporaryDirectory())
        scratch = pathlib.Path(scratch).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        places = stack.enter_context(sshds(max(case.hosts for case in ansible_rows.CASES.values())))
        samples = run_all(options, scratch, places)
    shown = {name for name, _ in samples}
    print(table([row for row in ansible_rows.ROWS if row.case in shown], samples))
    if options.json:
        found = [{"case": c, "subject": s, "samples": v} for (c, s), v in samples.items()]
        pathlib.Path(options.json).write_text(json.dumps(found, indent=1))
    return 0
