"""Environment of the subjects: virtual environments, a copy of the checkout, an sshd, module trees.

Rules: everything is in the scratch directory; the sshd is from tests/hosts.py, on 127.0.0.1, with
its own keys, and is ended by its pid. If a part cannot be made, only the groups that need it fail.
"""

import ast
import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys

__all__ = ["PEERS", "ROOT", "Hosts", "clean_environment", "find_python", "make_trees"]

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = {"peer": "mitogen==0.3.54", "execnet": "execnet==2.1.2"}
HOST = "bench"
TREE_MODULES, TREE_BYTES = 30, 66753  # the tree that the bounds in bench/table.py assume
# Sources of the trees' functions: plain code, present in every Python since 3.9.
TREE_SOURCES = (
    "argparse configparser difflib calendar ftplib gettext inspect locale mailbox optparse pydoc "
    "shutil smtplib statistics tarfile textwrap tokenize traceback urllib.parse urllib.request "
    "zipfile ast dis posixpath random shlex warnings turtle pickletools imaplib poplib"
).split()
SSH_CONFIG = """\
Host {host}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known}
  GlobalKnownHostsFile /dev/null
  BatchMode yes
"""


def clean_environment():
    """Return our environment without PYTHON*: PYTHONUNBUFFERED alone slows the peer by a third."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def find_python(wanted):
    """Return the interpreter for everything: *wanted*, Debian's, or the current one."""
    code = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 9))"
    for candidate in [wanted] if wanted else ["/usr/bin/python3", sys.executable]:
        argv = [candidate, "-c", code]
        done = subprocess.run(argv, env=clean_environment(), stderr=subprocess.DEVNULL, timeout=30)
        if done.returncode == 0:
            return candidate
    raise SystemExit("bench: no Python >= 3.9 with venv and ensurepip; see --python")


def plain_functions(source):
    """Yield (name, text) of the functions in *source* whose definition needs nothing else of it."""
    lines = source.splitlines(keepends=True)
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list:
            continue
        arguments = node.args
        defaults = arguments.defaults + [each for each in arguments.kw_defaults if each]
        annotated = [each for each in ast.walk(arguments) if getattr(each, "annotation", None)]
        if not annotated and all(isinstance(each, ast.Constant) for each in defaults):
            yield node.name, "".join(lines[node.lineno - 1 : node.end_lineno])


@functools.cache
def tree_bodies(count, size):
    """Return *count* texts of functions of about *size* bytes; they depend on the Python only."""
    functions = []
    for name in TREE_SOURCES:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and spec.origin.endswith(".py"):
            functions += plain_functions(pathlib.Path(spec.origin).read_text(encoding="utf-8"))
    functions = [text for _, text in functions if len(text) < size and text.isascii()]
    bodies, rest = [], iter(functions)
    for _ in range(count):
        body = ""
        while len(body) < size * 0.9:
            text = next(rest, None)
            if text is None:
                raise RuntimeError("too little source for the trees")
            if len(body) + len(text) < size * 1.1:
                body += "\n\n" + text
        bodies.append(body + "\n")
    return bodies


def write_tree(directory, inside):
    """Write a package of 30 modules whose `job.run` needs them all; return its size in bytes.

    :param inside: number of modules imported only inside functions, each by a different module.
    """
    parts = TREE_MODULES - 2
    bodies = tree_bodies(parts, TREE_BYTES // parts - 60)
    late = range(parts - inside, parts)
    texts = {"__init__": '"""A tree of modules to be imported."""\n'}
    for number, body in enumerate(bodies):
        target = number + parts - inside if inside and number < inside else None
        inner = (
            "    import {}.part{:02}\n\n".format(directory.name, target) if target in late else ""
        )
        step = "\n\ndef step():\n{}    return {}\n".format(inner, number)
        texts["part{:02}".format(number)] = '"""Part {}."""\n'.format(number) + step + body
    early = ["part{:02}".format(number) for number in range(parts - inside)]
    # The imports are absolute: the peer takes a round trip for each `from . import x`.
    lines = ["from {} import {}".format(directory.name, name) for name in early]
    calls = ", ".join("{}.step()".format(name) for name in early)
    texts["job"] = "\n".join(lines) + "\n\n\ndef run():\n    return sum([{}])\n".format(calls)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / (name + ".py")).write_text(text)
    return sum(map(len, texts.values()))


def make_trees(directory):
    """Write the packages `tree_top` and `tree_inside`; return the size of the first."""
    write_tree(directory / "tree_inside", 10)
    return write_tree(directory / "tree_top", 0)


class Hosts:
    """The resources of the subjects, as a context manager.

    :param scratch: directory to use, with environments of an earlier run.
    :param python: path of the interpreter.
    """

    def __init__(self, scratch, python):
        self.scratch = pathlib.Path(scratch)
        self.python = python
        self.failed = {}  # need -> why it is missing
        self.sshd = None
        self.setting = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self._copy_checkout()
        trees = self.scratch / "trees"
        self.setting = {
            "python": self.python,
            "scratch": str(self.scratch),
            "host": HOST,
            "sudo_user": "root",
            "tree": str(trees),
            "delay_proxy": str(ROOT / "tests" / "delay_proxy.py"),
            "scripts": str(ROOT / "bench"),
        }
        self._attempt("tree", lambda: self.setting.update(tree_size=make_trees(trees)))
        self._attempt("sshd", self._start_sshd)
        self._attempt("sudo", self._check_sudo)
        return self

    def __exit__(self, *exc_info):
        self._stack.close()

    def _attempt(self, need, make):
        try:
            make()
        except Exception as error:
            self.failed[need] = "{}: {}".format(type(error).__name__, error)

    def _copy_checkout(self):
        """Copy the library, so that edits during a run are not measured; compile it."""
        target = self.scratch / "ours"
        shutil.rmtree(target, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "mitogen", target / "mitogen", ignore=ignored)
        self._python("-m", "compileall", "-q", str(target))

    def _python(self, *args):
        argv = [self.python, *args]
        done = subprocess.run(
            argv, env=clean_environment(), capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError("{}: {}".format(argv, (done.stderr or done.stdout)[-500:]))
        return done.stdout

    def library(self, subject):
        """Return the directory to put on sys.path for *subject*; install a peer if necessary."""
        if subject == "ours":
            return str(self.scratch / "ours")
        directory = self.scratch / ("venv-" + subject)
        stamp = directory / "stamp"
        wanted = json.dumps([PEERS[subject], self.python, self._python("-VV")])
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            self._python("-m", "venv", str(directory))
            # Use the environment's pip with the machine's settings.
            install = ["-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run(
                [str(directory / "bin" / "python"), *install, PEERS[subject]],
                env=clean_environment(),
                check=True,
                timeout=300,
            )
            stamp.write_text(wanted)
        return str(next(directory.glob("lib/python*/site-packages")))

    def _start_sshd(self):
        from tests import hosts

        if not hosts.program("sshd"):
            raise RuntimeError("openssh-server is not installed")
        directory = hosts.make_directory()
        self._stack.callback(shutil.rmtree, directory, True)
        self.sshd = hosts.Sshd(directory / "sshd", hosts.Keys(directory)).start()
        self._stack.callback(self.sshd.stop)
        config = self.scratch / "ssh_config"
        text = SSH_CONFIG.format(
            host=HOST,
            port=self.sshd.port,
            user=pwd.getpwuid(os.geteuid()).pw_name,
            key=self.sshd.identity_file,
            known=self.sshd.known_hosts,
        )
        config.write_text(text)
        self.setting.update(ssh_config=str(config), port=self.sshd.port)

    def _check_sudo(self):
        done = subprocess.run(
            ["sudo", "-n", "-u", "root", "true"], capture_output=True, text=True, timeout=20
        )
        if done.returncode:
            raise RuntimeError("sudo -n -u root: " + done.stderr.strip())

    def pin_sshd(self, cpus):
        """Make the sshd's future sessions run on *cpus*."""
        if self.sshd is not None:
            os.sched_setaffinity(self.sshd.pid, cpus)
