"""
The base of connection methods: common options, the start of a child, and the prompts expected
before it runs. The method `local` is defined here too.

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
    from collections.abc import Hashable, Iterable, Sequence
    from typing import Any

    from mitogen.bootstrap.handshake import Prompt, PythonPath, Rule
    from mitogen.bootstrap.spawn import Process
    from mitogen.core import StreamError
    from mitogen.tree.router import Router

__all__ = [
    "AccountConnection",
    "AccountOptions",
    "Connection",
    "LocalOptions",
    "Options",
    "censored",
    "checked_password",
    "secret_part",
    "get_default_remote_name",
    "get_sys_executable",
]

#: Options of programs whose value is a secret.
SECRET_OPTIONS = ("--token", "--password", "--passphrase", "--secret")
_SECRET_NAME = re.compile(r"(?i)(-*\w*(token|passw(or)?d|passphrase|secret)\w*=)(.+)", re.DOTALL)
#: Text shown instead of a secret.
CENSORED = "********"
#: Number of keepalives that may stay unanswered.
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


def secret_part(argv: Sequence[str], number: int) -> str:
    """Return the end of a word of a command line that is a secret, such as `x` of `--token=x`."""
    if number and argv[number - 1] in SECRET_OPTIONS:
        return argv[number]
    found = _SECRET_NAME.match(argv[number])
    return found.group(4) if found else ""


def censored(argv: Sequence[str]) -> list[str]:
    """Return a command line to show: with asterisks instead of secrets."""
    found = []
    for number, word in enumerate(argv):
        secret = secret_part(argv, number)
        found.append(word[: len(word) - len(secret)] + CENSORED if secret else word)
    return found


def checked_password(password: Any) -> Any:
    """
    Return a password as str, with surrogates for bytes that are not UTF-8 (os.fsdecode()).

    :raises TypeError: it is neither str nor bytes
    :raises ValueError: it has characters that no bytes stand for
    """
    if isinstance(password, (bytes, bytearray)):
        return bytes(password).decode("utf-8", "surrogateescape")
    if password is not None and not isinstance(password, str):
        # Not its value: the text is logged.
        raise TypeError("password= must be str or bytes, not %s" % type(password).__name__)
    try:
        (password or "").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("password= has a lone surrogate that stands for no byte") from None
    return password


class Options:
    """
    Options of every connection method.

    :param str name: name of the context, for display
    :param str remote_name: name shown by ps after `mitogen:`; no slashes
    :param python_path: str, path or list: the interpreter; None: see `default_python_path`
    :param float connect_timeout: seconds until the connection must be established; with `via=`,
        the other context has 3 seconds more to begin and to answer
    :param bool debug: log more in the child
    :param bool unidirectional: forbid traffic between the child's siblings
    """

    __module__ = "mitogen.parent"

    #: Interpreter used if none is named; None to search for one.
    default_python_path = None
    password: Any = None

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
    """Options of a method whose child runs on this machine, by default with this interpreter."""

    default_python_path = property(lambda self: get_sys_executable())


class AccountOptions(LocalOptions):
    """
    Options of a program that prompts for a password:

    :param str username: account to switch to
    :param str password: the password
    :param str password_prompt: text of the prompt, compared case-insensitively
    :param incorrect_prompts: texts of the program's possible replies to a wrong password
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
        self.password = checked_password(password)
        self.password_prompt = password_prompt
        self.incorrect_prompts = tuple(incorrect_prompts)

    def rules(
        self, error: type[StreamError], required: str, incorrect: str
    ) -> tuple[Rule, list[Rule]]:
        """Return (Rule for the prompt, Rules for replies to a wrong password)."""
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
    A connection method: the start of a child, and the prompts on the way. This base class is
    `local`, whose child is a subprocess.
    """

    __module__ = "mitogen.parent"

    options_class: type[Options] = LocalOptions
    #: Arguments of spawn.start(): the kind of the child's standard input, output and error.
    stdio = "pipe"
    tty = False
    err = False
    #: Send everything at once, before the child's first output; False if prompts come on the pipe.
    eager = True
    #: Seconds between keepalives, for links that may fail silently; 0 for none.
    keepalive_interval = 0
    keepalive_count = KEEPALIVE_COUNT
    #: The started process only relays bytes to the context's process, which can outlive it.
    is_client = False
    #: Signal sent to the program after a failed attempt. SIGKILL follows soon in any case.
    end_signal = _signal.SIGKILL
    #: Start the child behind handshake.guarded() if a password may be asked for.
    is_guarded = True
    #: Changes to the environment of the started program; the child reverts them.
    environ: dict[str, str] = {}
    #: Beginning of an EofError's text, and the advice at its end; programs compare them.
    eof_error_msg = handshake.EOF_TEXT
    eof_error_hint: str | None = None

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
        """`process`, under its older name."""
        return self.process

    def get_python_argv(self) -> list[str]:
        """Return python_argv(). Kept for compatibility."""
        return self.python_argv()

    def get_boot_command(self) -> list[str]:
        """Return the argument list that starts the first stage, without a shell in between."""
        return self.python_argv() + ["-c", handshake.first_stage(), self.options.remote_name]

    def argv(self) -> list[str]:
        """Return the argument list to run here. Pure."""
        return self.get_boot_command()

    def rules(self) -> dict[str, list[Rule]]:
        """Return the Rules for prompts and messages before the child runs, by channel name."""
        return {}

    def answers(self) -> dict[str, str | None]:
        """Return the answers to prompts, by the names used in rules()."""
        return {}

    def judge(self, prompt: Prompt) -> Any:
        """
        Broker thread: decide whether to answer a prompt.

        :returns: True; or False if it is not from a program that runs as the caller; or a function
            that finds out on another thread, and returns None or the error
        """
        return True

    def forget(self) -> None:
        """Drop the secrets, which are of no more use once the child is ready or has failed."""
        self.options.password = None

    def destination(self) -> Hashable:
        """Return a key for the server, whose concurrent logins are limited; None for no limit."""

    def default_name(self) -> str:
        """Return the context's name if none was given."""
        return "local.%d" % self.process.pid

    def lookup(self) -> str:
        """Return the names of the interpreters searched for, for an error message."""
        if self.options.python_path is None:
            names = ["python" + s.strip('"') for s in handshake.SUFFIXES]
            return ", ".join(names)
        return " ".join(self.python_argv())

    def start(self) -> Process:
        """Start the child's process."""
        # In one line: an interruption must not lose it.
        self.process = spawn.start(self.argv(), self.stdio, self.tty, self.err, self.environ)
        return self.process  # type: ignore[no-any-return]


class AccountConnection(Connection):
    """
    A program that prompts for a password, and then runs the child as another account of this
    machine.

    Code of that account must not be given the password, even if the program did not ask for it
    (NOPASSWD): so a report precedes the child (guarded()), and judge() looks at the processes,
    because login shells read that account's files before any report.
    """

    def guarded_command(self) -> list[str]:
        """Return the argument list that starts the first stage, behind guarded() if needed."""
        boot = self.get_boot_command()
        guarded = self.is_guarded and self.options.password is not None
        return handshake.guarded(boot) if guarded else boot

    def judge(self, prompt: Prompt) -> bool:
        pid = self.process.pid
        accounts = spawn.accounts_below(pid)
        if prompt.unusual:
            # Only with proof: the program itself is the only process.
            if accounts is None or len(accounts) > 1 or spawn.has_reaped(pid):
                return False
        allowed = {0, os.getuid(), os.geteuid()}
        return accounts is None or all(each <= allowed for each in accounts)
