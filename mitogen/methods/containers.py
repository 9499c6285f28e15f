"""
Connection methods of programs that run a command elsewhere, mostly in a container: docker, podman,
buildah, kubectl, lxc, lxd, incus, jail, and `command`, whose command line is given by the caller.

Rules
    1. Each program is a row of TABLE: its options and its command line. There is no code per
       program.
    2. No login shell is involved, so no word is quoted for one.
    3. The child's standard input and output are pipes, so everything is sent at once (`eager`),
       unless the program insists on a terminal. `-t` of docker or kubectl is never used: the
       terminal that it makes in the container changes line ends, echoes, and turns control
       characters into signals.
    4. The program's own messages come on a separate pipe: they must not mix with frames.

A command line is a list of words. `{name}` in a word stands for the option of that name, `{{` and
`}}` for a brace; a word that is only `{name}` becomes as many words as the option has. A nested
list is left out unless all options named by its own words are set. `{python}` stands for the words
that start Python there, and is appended if missing; `{shell}` is the same as one word, quoted for a
POSIX shell.

No threads, no clock, no descriptors.
"""

from __future__ import annotations

import os
import re
import signal
import string
from collections import namedtuple
from shlex import quote, split

from mitogen.bootstrap import handshake
from mitogen.bootstrap.handshake import LoginError, Rule, UnsupportedPythonError
from mitogen.core import StreamError
from mitogen.methods import connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    Template = Sequence[str | Sequence[Any]]
    Rules = dict[str, list[Rule]]

__all__ = [
    "TABLE",
    "Connection",
    "ContainerError",
    "Options",
    "PasswordError",
    "Row",
    "ToolConnection",
    "ToolOptions",
    "expand",
    "fields_of",
    "method",
]

_OCI_USER = ("--user", "{username}")
_NO_INSTANCE = rb"instance( is)? not (found|running)|error: not found"

#: A program:
#: - its options and their defaults;
#: - its command lines, by the one option that must be given;
#: - a regular expression for its message about a container that is missing or not running;
#: - whether the process here is only a client, and not an ancestor of the context's process;
#: - whether it cleans up after a failure, so that it needs time to exit by itself.
Row = namedtuple("Row", "options command_lines absent is_client cleans_up")

#: Connection methods: name to program.
TABLE = {
    "docker": Row(
        options={"docker_path": "docker", "docker_args": None, "username": None},
        command_lines={
            "container": (
                "{docker_path}",
                "exec",
                "--interactive",
                _OCI_USER,
                ("{docker_args}",),
                "{container}",
            ),
            "image": (
                "{docker_path}",
                "run",
                "--interactive",
                "--rm",
                _OCI_USER,
                ("{docker_args}",),
                "{image}",
            ),
        },
        absent=rb"no such container|container [^\n]* is not running",
        is_client=True,
        cleans_up=False,
    ),
    "podman": Row(
        options={"podman_path": "podman", "username": None},
        command_lines={
            "container": ("{podman_path}", "exec", "--interactive", _OCI_USER, "{container}")
        },
        absent=rb"no such container|container state improper",
        is_client=True,
        cleans_up=True,
    ),
    "buildah": Row(
        options={"buildah_path": "buildah", "username": None},
        command_lines={"container": ("{buildah_path}", "run", _OCI_USER, "--", "{container}")},
        absent=rb"container not known",
        is_client=False,
        cleans_up=True,
    ),
    "kubectl": Row(
        options={
            "kubectl_path": "kubectl",
            "kubectl_args": None,
            "container": None,
            "namespace": None,
            "context": None,
        },
        command_lines={
            "pod": (
                "{kubectl_path}",
                "exec",
                "--stdin",
                ("--context", "{context}"),
                ("--namespace", "{namespace}"),
                ("--container", "{container}"),
                ("{kubectl_args}",),
                "{pod}",
                "--",
            )
        },
        absent=rb"\(notfound\)|container [^\n]* is not valid for pod|container not found",
        is_client=True,
        cleans_up=False,
    ),
    "lxc": Row(
        options={"lxc_attach_path": "lxc-attach"},
        command_lines={
            "container": ("{lxc_attach_path}", "--clear-env", "--name", "{container}", "--")
        },
        absent=rb"failed to get init pid",
        is_client=False,
        cleans_up=False,
    ),
    "lxd": Row(
        options={"lxc_path": "lxc"},
        command_lines={
            "container": ("{lxc_path}", "exec", "--mode=non-interactive", "{container}", "--")
        },
        absent=_NO_INSTANCE,
        is_client=True,
        cleans_up=False,
    ),
    "incus": Row(
        options={"incus_path": "incus"},
        command_lines={
            "container": ("{incus_path}", "exec", "--mode=non-interactive", "{container}", "--")
        },
        absent=_NO_INSTANCE,
        is_client=True,
        cleans_up=False,
    ),
    "jail": Row(
        options={"jexec_path": "/usr/sbin/jexec", "username": None},
        command_lines={"container": ("{jexec_path}", ("-U", "{username}"), "{container}")},
        absent=rb"jail [^\n]* not found",
        is_client=False,
        cleans_up=False,
    ),
}

#: Descriptions of options, for the classes' docstrings; other options are paths of programs.
_TEXTS = {
    "container": "str: name or id of a running container",
    "image": "str: start a container from this image, and remove it at the end",
    "pod": "str: name of a running pod",
    "username": "str: account there; None for the container's default",
    "namespace": "str: the pod's namespace; None for the configuration's",
    "context": "str: context of kubectl's configuration",
    "docker_args": "list of str: more arguments of `docker exec` or `docker run`",
    "kubectl_args": "list of str: more arguments of `kubectl exec`",
}
_TEXT_CONTAINER_OF_POD = "str: name of one of the pod's containers"

_COMMON = connection.Options.__init__.__code__
#: Options of every connection method.
COMMON_OPTIONS = _COMMON.co_varnames[1 : _COMMON.co_argcount]
#: Names in a command line of `command` that no keyword argument defines, or that must not occur.
_RESERVED = ("argv", "prompts", "tty", "password", "python", "shell") + COMMON_OPTIONS

#: Error message of runc and crun for a missing shell, common to the programs that use them.
_NO_PROGRAM = rb"executable file [^\n]*not found"


class ContainerError(StreamError):
    """The container does not exist or is not running."""


class PasswordError(LoginError):
    """A prompt has no answer, or its answer was rejected."""


# ---- command lines


def fields_of(template: Template) -> Iterator[str]:
    """
    Yield the names of the options in a command line.

    :raises ValueError: a word has a brace that is neither doubled nor part of a `{name}`
    """
    for part in template:
        if isinstance(part, str):
            yield from (name for _, name in _parse(part) if name is not None)
        else:
            yield from fields_of(part)


def expand(template: Template, fields: Mapping[str, Any]) -> list[str]:
    """
    Return the command line for a template. Pure.

    :param template: list of words; see this module's docstring
    :param fields: values of the names in it: str, path, number, or a list of these
    :raises ValueError: an option is not set, or is a list and is not a word of its own
    """
    argv: list[str] = []
    for part in template:
        if isinstance(part, str):
            argv += _expand_word(part, fields)
        else:
            own = fields_of([word for word in part if isinstance(word, str)])
            if all(_is_set(fields.get(name)) for name in own):
                argv += expand(part, fields)
    return argv


def _is_set(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != ()


def _parse(word: str) -> list[tuple[str, str | None]]:
    """Return the parts of a word: (text, name of the option that follows, or None)."""
    try:
        parts = list(string.Formatter().parse(word))
        if all(name is None or name.isidentifier() and not (s or c) for _, name, s, c in parts):
            return [(text, name) for text, name, _, _ in parts]
    except ValueError:
        pass
    raise ValueError(
        "cannot parse %r: braces enclose the name of an option; write {{ or }} for a brace" % word
    )


def _expand_word(word: str, fields: Mapping[str, Any]) -> list[str]:
    found = []
    for text, name in _parse(word):
        found.append(text)
        if name is not None:
            value = fields.get(name)
            if word == "{%s}" % name and isinstance(value, (list, tuple)):
                return [_text(each) for each in value]
            if not _is_set(value) or isinstance(value, (list, tuple)):
                raise ValueError("%r requires %s= to be one word; it is %r" % (word, name, value))
            found.append(_text(value))
    return ["".join(found)]


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)


# ---- any command line


class Options(connection.Options):
    """
    Options of `command`, which starts a context through any program that runs a command. In
    addition to connection.Options:

    :param list argv: the command line, a list of str: see this module's docstring. The value of
        `{name}` is the keyword argument of that name; any name may be used
    :param tty: True gives the program a terminal for its prompts, in addition to its standard
        input and output; "stdio" makes the terminal its standard input and output, for programs
        that read answers there
    :param list prompts: the program's possible prompts and messages: (regular expression, answer,
        error). The answer is sent to the terminal, once; `{password}` in it stands for the option,
        other names as in `argv`. Connecting fails with the text `error` if the answer is None, or
        if the prompt is repeated
    :param str password: password for the answers; never on the command line
    :raises TypeError: an argument is used nowhere
    :raises ValueError: `argv`, `prompts` or `tty` is not as described above

    For example ::

        router.command(argv=["chroot", "/srv/debian"])
        router.command(
            argv=["dzdo", "-u", "{username}", "{python}"],
            username="oracle",
            tty=True,
            password="secret",
            prompts=[("password", "{password}", "dzdo: the password is wrong")],
        )
    """

    def __init__(
        self,
        argv: Template = (),
        prompts: Sequence[tuple[str | bytes, str | None, str]] = (),
        password: str | None = None,
        tty: bool | str = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(argv, (str, bytes)) or not argv:
            raise ValueError("command: argv=%r must be a non-empty list of words" % (argv,))
        if tty not in (False, True, "stdio"):
            raise ValueError("command: tty=%r must be False, True or 'stdio'" % (tty,))
        self.tty = tty
        self.password = connection.checked_password(password)
        self.template = _words(argv)
        self.prompts = [_prompt(number, row, tty) for number, row in enumerate(prompts)]
        named = set(fields_of(self.template))
        if "password" in named:
            raise ValueError(
                "command: {password} in argv= would be visible to all users; use prompts="
            )
        named.update(fields_of([answer for _, answer, _ in self.prompts if answer is not None]))
        self.fields = {name: kwargs.pop(name, None) for name in named.difference(_RESERVED)}
        _refuse_unknown("command", kwargs, [*_RESERVED[:4], *sorted(self.fields)])
        connection.Options.__init__(self, **kwargs)
        common = named.intersection(COMMON_OPTIONS)
        self.fields.update((name, getattr(self, name)) for name in common)
        # Detect missing options here rather than on the broker thread.
        expand(self.template, dict(self.fields, python="python", shell="python"))


def _words(argv: Sequence[Any]) -> list[Any]:
    """Return a command line with paths converted to str."""
    words: list[Any] = []
    for word in argv:
        if not isinstance(word, (str, os.PathLike, list, tuple)):
            raise ValueError("command: %r in argv= is not a str" % (word,))
        words.append(_words(word) if isinstance(word, (list, tuple)) else os.fspath(word))
    return words


def _prompt(number: int, row: Any, tty: Any) -> tuple[bytes, str | None, str]:
    try:
        pattern, answer, error = row
        pattern = pattern.encode() if isinstance(pattern, str) else pattern
        re.compile(pattern)
    except (TypeError, ValueError, re.error) as e:
        raise ValueError(
            "command: prompts[%d]=%r must be (regular expression, answer or None, error): %s"
            % (number, row, e)
        ) from e
    if answer is not None and not tty:
        raise ValueError(
            "command: prompts[%d] has an answer, which requires a terminal; set tty=" % number
        )
    return pattern, answer, error


def _refuse_unknown(method: str, kwargs: Mapping[str, Any], own: Sequence[str]) -> None:
    known = [*own, *COMMON_OPTIONS]
    for name in sorted(set(kwargs).difference(known)):
        raise TypeError(
            "%s: unknown option %r; known options are: %s" % (method, name, ", ".join(known))
        )


class Connection(connection.Connection):
    """A program that runs a command; see Options."""

    options_class: Any = Options
    err = True

    def __init__(self, options: Any, router: Any) -> None:
        connection.Connection.__init__(self, options, router)
        if options.tty == "stdio":
            self.stdio = "tty"
            self.eager = False
        else:
            self.tty = options.tty

    def get_boot_command(self) -> list[str]:
        """Return the argument list that starts the first stage, without a shell in between."""
        # As for a login shell, without the quotes for it.
        words = handshake.remote_command(self.options.python_path, self.options.remote_name)
        words = [split(word)[0] for word in words]
        return words[1:] if words[0] == "exec" else words

    def argv(self) -> list[str]:
        """Return the argument list to run here. Pure."""
        boot = self.get_boot_command()
        answers = [answer for _, answer, _ in self.options.prompts if answer is not None]
        if answers and self.is_guarded:
            boot = handshake.guarded(boot)
        template = list(self.options.template)
        if not {"python", "shell"}.intersection(fields_of(template)):
            template.append("{python}")
        shell = " ".join(quote(word) for word in boot)
        return expand(template, dict(self.options.fields, python=boot, shell=shell))

    def rules(self) -> Rules:
        """Return the Rules for prompts and messages before the child runs, by channel name."""
        every = [self._rule(*row) for row in self.options.prompts]
        if self.stdio == "tty":
            return {"pipe": every}
        return {"tty": every, "err": every, "pipe": [rule for rule in every if rule.error]}

    def _rule(self, pattern: bytes, answer: str | None, error: str) -> Rule:
        if answer is None:
            return Rule(pattern, error=(StreamError, error))
        missing = "no value given for %s, which is prompted for (%s)" % (
            answer,
            self.default_name(),
        )
        return Rule(pattern, answer, (PasswordError, missing), (PasswordError, error))

    def answers(self) -> dict[str, str | None]:
        """Return the answers to prompts, by the names used in rules(); None if not known."""
        fields = dict(self.options.fields, password=self.options.password)
        answers = [answer for _, answer, _ in self.options.prompts if answer is not None]
        # As a nested list, an answer with an unset option expands to nothing.
        return {answer: next(iter(expand([[answer]], fields)), None) for answer in answers}

    def forget(self) -> None:
        """Drop the password, and all options that occur only in answers."""
        options = self.options
        answers = [answer for _, answer, _ in options.prompts if answer is not None]
        for name in answers and set(fields_of(answers)).difference(fields_of(options.template)):
            options.fields.pop(name, None)
        options.password = None

    def default_name(self) -> str:
        """Return the context's name if none was given."""
        return "command.%s" % os.path.basename(self.argv()[0])


# ---- the rows of TABLE


class _Signed(type):
    """A metaclass of options classes with a signature for inspect.signature() and help()."""

    @property
    def __signature__(cls) -> Any:
        # Not at the top: importing `inspect` takes longer than the rest of this module.
        import inspect

        method = getattr(cls, "method", None)
        if method not in TABLE:
            raise AttributeError("__signature__: these options belong to no connection method")
        row = TABLE[method]
        needed = None if len(row.command_lines) > 1 else inspect.Parameter.empty
        defaults: dict[str, Any] = dict.fromkeys(row.command_lines, needed)
        defaults.update(row.options)
        defaults.update(zip(COMMON_OPTIONS, connection.Options.__init__.__defaults__ or ()))
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [inspect.Parameter(name, kind, default=value) for name, value in defaults.items()]
        )


class ToolOptions(connection.Options, metaclass=_Signed):
    """Options of a method in TABLE."""

    method = ""
    prompts = ()
    password = None
    tty = False

    def __init__(self, **kwargs: Any) -> None:
        options, command_lines, *_ = TABLE[self.method]
        _refuse_unknown(self.method, kwargs, [*command_lines, *options])
        self.fields = {name: kwargs.pop(name, default) for name, default in options.items()}
        self.fields.update((name, kwargs.pop(name, None)) for name in command_lines)
        # Programs read stream.conn.options.container.
        self.__dict__.update(self.fields)
        connection.Options.__init__(self, **kwargs)
        given = [name for name in command_lines if _is_set(self.fields[name])]
        if len(given) != 1:
            raise TypeError(
                "%s: needs %s" % (self.method, " or ".join("%s=" % name for name in command_lines))
                + (", not both" if given else "")
            )
        value = self.fields[given[0]]
        #: Name or id of the container, pod or image.
        self.target = _text(value)
        if isinstance(value, (list, tuple)) or self.target.startswith("-"):
            raise ValueError("%s: %s=%r is not a name" % (self.method, given[0], value))
        self.template = list(command_lines[given[0]])
        expand(self.template, self.fields)


class ToolConnection(Connection):
    """A program in TABLE."""

    options_class: Any = ToolOptions

    def __init__(self, options: Any, router: Any) -> None:
        Connection.__init__(self, options, router)
        row = TABLE[options.method]
        self.is_client = row.is_client
        if row.cleans_up:
            self.end_signal = signal.SIGTERM

    def rules(self) -> Rules:
        """Return the Rules for messages before the child runs, by channel name."""
        method, target = self.options.method, self.options.target
        absent = "%s: %r does not exist or is not running" % (method, target)
        python = "%s: no Python found in %r: looked for %s (name one with python_path=)" % (
            method,
            target,
            self.lookup(),
        )
        return {
            "err": [
                Rule(TABLE[method].absent, error=(ContainerError, absent)),
                Rule(_NO_PROGRAM, error=(UnsupportedPythonError, python)),
            ]
        }

    def default_name(self) -> str:
        """Return the context's name if none was given."""
        return "%s.%s" % (self.options.method, self.options.target)


def _describe(name: str) -> str:
    """Return the docstring of a method's Options."""
    options, command_lines, *_ = TABLE[name]
    lines = ["Options of `%s`. In addition to connection.Options:" % name, ""]
    for option in [*command_lines, *options]:
        text = _TEXTS.get(option, "the program: str, path, or list of words")
        if option == "container" and option in options:
            text = _TEXT_CONTAINER_OF_POD
        default = "" if options.get(option) is None else "; default %s" % options[option]
        lines.append(":param %s: %s%s" % (option, text, default))
    if len(command_lines) > 1:
        lines += ["", "Give one of %s." % ", ".join("`%s=`" % each for each in command_lines)]
    return "\n".join(lines)


def method(name: str) -> tuple[type[ToolOptions], type[ToolConnection]]:
    """
    Return (Options, Connection) of a connection method.

    :param str name: a row of TABLE
    """
    common = {"__module__": "mitogen." + name}
    options = _Signed("Options", (ToolOptions,), dict(common, method=name, __doc__=_describe(name)))
    text = "A program started by the method `%s`." % name
    connection = type(
        "Connection", (ToolConnection,), dict(common, options_class=options, __doc__=text)
    )
    return options, connection  # type: ignore[return-value]
