"""
The base of connection methods: the options that all of them take, and how a method starts a child
and which prompts it expects. The method `local` is here too.

A method makes no protocol decisions: bootstrap/handshake.py holds the conversation, and
tree/connecting.py drives it.

Threads: any; start() runs on the thread that connects.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it
import os
import re
import sys

from mitogen.bootstrap import handshake, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from typing import Any

    from mitogen.bootstrap.handshake import PythonPath, Rule
    from mitogen.bootstrap.spawn import Process
    from mitogen.core import StreamError
    from mitogen.tree.router import Router

__all__ = [
    "AccountOptions",
    "Connection",
    "LocalOptions",
    "Options",
    "get_default_remote_name",
    "get_sys_executable",
]

#: How many keepalives may go unanswered.
KEEPALIVE_COUNT = 3


def get_default_remote_name() -> str:
    """Return `user@host:pid` of this process, without slashes."""
    try:
        import pwd

        user = pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        user = str(os.getuid())
    return ("%s@%s:%d" % (user, os.uname().nodename, os.getpid())).replace("/", "_")


def get_sys_executable() -> str:
    """Return the path of this interpreter."""
    return sys.executable or "python3"


class Options:
    """
    What every connection method takes.

    :param str name: name of the context, for people
    :param str remote_name: shown by ps behind `mitogen:`; no slashes
    :param python_path: str, path or list: the interpreter; None: see `default_python_path`
    :param float connect_timeout: seconds until the connection must be made
    :param bool debug: log more in the child
    :param bool unidirectional: forbid traffic between siblings there
    """

    #: What to run where none is named: None to look for one.
    default_python_path = None

    def __init__(
        self,
        name: str | None = None,
        remote_name: str | None = None,
        python_path: PythonPath = None,
        debug: bool = False,
        connect_timeout: float | None = 30.0,
        profiling: bool = False,
        unidirectional: bool = False,
        max_message_size: int | None = None,
    ) -> None:
        self.name = name
        self.remote_name = remote_name or get_default_remote_name()
        if "/" in self.remote_name or "\\" in self.remote_name:
            raise ValueError("remote_name=%r must not contain a slash" % (remote_name,))
        if isinstance(python_path, os.PathLike):
            python_path = os.fspath(python_path)
        self.python_path = python_path or self.default_python_path
        self.debug = debug
        self.connect_timeout = 30.0 if connect_timeout is None else float(connect_timeout)
        self.profiling = profiling
        self.unidirectional = unidirectional
        self.max_message_size = max_message_size


class LocalOptions(Options):
    """Options of a method whose child runs on this machine: this interpreter, if none is named."""

    default_python_path = property(lambda self: get_sys_executable())


class AccountOptions(LocalOptions):
    """
    Options of a program that asks for a password with a prompt of its own:

    :param str username: whose account
    :param str password: what it asks for
    :param str password_prompt: what it asks with; compared without regard to case
    :param incorrect_prompts: what it may say to a wrong password
    """

    def __init__(
        self,
        username: str | None,
        password: str | None,
        password_prompt: str,
        incorrect_prompts: Iterable[str],
        **kwargs: Any,
    ) -> None:
        Options.__init__(self, **kwargs)
        self.username = username or "root"
        self.password = password
        self.password_prompt = password_prompt
        self.incorrect_prompts = tuple(incorrect_prompts)

    def rules(
        self, error: type[StreamError], required: str, incorrect: str
    ) -> tuple[Rule, list[Rule]]:
        """Return (Rule for the prompt, Rules for what is said to a wrong password)."""
        prompt = handshake.Rule(
            re.escape(self.password_prompt.encode()) + rb" *",
            answer="password",
            missing=(error, required),
            again=(error, incorrect),
        )
        wrong = [
            handshake.Rule(re.escape(text.encode()), error=(error, incorrect))
            for text in self.incorrect_prompts
        ]
        return prompt, wrong


class Connection:
    """
    A connection method: how to start a child, and what may be asked on the way. This one is
    `local`: a subprocess of this one.
    """

    options_class: type[Options] = LocalOptions
    #: How the child's standard input and output are made: see spawn.start().
    stdio = "pipe"
    tty = False
    err = False
    #: Send all at once, before the child has said a word: not where the prompts are on the pipe.
    eager = True
    #: The link can go silent: send keepalives.
    keepalive_interval = 0
    keepalive_count = KEEPALIVE_COUNT
    #: What is started here only carries bytes to the context's process, which can do without it.
    is_client = False
    #: What ends the program where the attempt has failed. It is killed soon, whatever this is.
    end_signal = _signal.SIGKILL
    #: Changes to the environment of the program that is started; the child undoes them.
    environ: dict[str, str] = {}

    def __init__(self, options: Any, router: Router) -> None:
        self.options = options
        self.router = router
        self.process: Any = None

    def python_argv(self) -> list[str]:
        """Return the interpreter's argument list."""
        path = self.options.python_path
        return [str(arg) for arg in ([path] if isinstance(path, (str, bytes)) else path)]

    @property
    def proc(self) -> Any:
        """`process`, as old programs know it."""
        return self.process

    def get_python_argv(self) -> list[str]:
        """Return python_argv(), as old programs know it."""
        return self.python_argv()

    def get_boot_command(self) -> list[str]:
        """Return the argument list that starts the first stage, with no shell between."""
        return self.python_argv() + ["-c", handshake.first_stage(), self.options.remote_name]

    def argv(self) -> list[str]:
        """Return the argument list to run here. Pure."""
        return self.get_boot_command()

    def rules(self) -> dict[str, list[Rule]]:
        """Return what may be asked or said before the child is there: channel to list of Rule."""
        return {}

    def answers(self) -> dict[str, str | None]:
        """Return what to answer, by the names that rules() uses."""
        return {}

    def destination(self) -> Hashable:
        """Return what tells one server's logins from another's; None: logins have no limit."""

    def default_name(self) -> str:
        """Return the context's name where none was given."""
        return "local.%d" % self.process.pid

    def lookup(self) -> str:
        """Return what interpreter is looked for, for an error."""
        if self.options.python_path is None:
            names = ["python" + s.strip('"') for s in handshake.SUFFIXES]
            return ", ".join(names)
        return " ".join(self.python_argv())

    def start(self) -> Process:
        """Start the child's process."""
        process = spawn.start(self.argv(), self.stdio, self.tty, self.err, self.environ)
        self.process = process
        return process
