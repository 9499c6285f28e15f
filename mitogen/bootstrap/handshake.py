r"""
Converse with the program at the other end until it is a context. Sans-IO: input is bytes from the
pipe and the terminal, output is events: "send this", "hello", "ready" or "failed".

The first stage, a small program on the command line, is defined here too, because both sides speak
the same protocol. All its lines are sent on the pipe, after any output of the login:

    MITO:PASSED             no password is asked for any more: see guarded()
    MITO:NONE               no interpreter found; sent by the shell
    MITO:HELLO 3.9.2 /path  the first stage runs, on this version, with this interpreter
    MITO:EATEN              stdin does not begin with the opening: another program consumed a part
    MITO:READY              frames follow

The child is sent one line that makes a shell exit, in case a shell reads it, and a zlib stream,
which ends with its own checksum (RFC 1950): a second stage of two lines, core.py and its
configuration, separated by zero bytes.

Rules
    1. An answer is a secret of the caller. It is sent at most once, and only in the state "login",
       which ends before code of the other account may run: at PASSED, at HELLO, or once the caller
       of this module finds that the account has changed (`pass_login()`).
    2. Each event "send" comes with the prompt that it answers (`prompts`), because only the caller
       can find out which program asks.
    3. Bytes from the other end can't raise: a text that can't be parsed is a "failed" event.

No threads, no clock, no descriptors.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from shlex import quote

import mitogen.core
from mitogen.core import StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from re import Match
    from typing import (
        Any,
        Union,
    )

    from mitogen import core

    PythonPath = Union[None, str, bytes, "os.PathLike[str]", Sequence[Any]]
    # The exception's class, and its message.
    Failure = tuple[type[StreamError], str]
    # The event's name, and the arguments of connect.Connecting._on_<name>.
    Event = tuple[Any, ...]


__all__ = [
    "EofError",
    "Handshake",
    "LoginError",
    "Rule",
    "UnsupportedPythonError",
    "Prompt",
    "first_stage",
    "guarded",
    "preamble",
    "remote_command",
    "split_preamble",
]

#: Oldest Python supported on a target.
MINIMUM_VERSION = (3, 6)
#: Number of output lines kept for an error message.
KEPT_LINES = 100
#: Bytes of output before the marker that are searched for prompts at a time.
KEPT_BYTES = 65536

#: Suffixes of `python` to search for if no interpreter is named, in this order; each is preceded by
#: the interpreter of that version that Red Hat reserves for its own tools.
SUFFIXES = ("3", "3.15", "3.14", "3.13", "3.12", "3.11", "3.10", "3.9", "3.8", "3.7", "3.6", '""')

_SEARCH = (
    "for v in %s;do for p in /usr/libexec/platform-python$v python$v;do "
    'command -v $p>/dev/null&&exec $p -c "$0" "$1";done;done;echo MITO:NONE'
) % " ".join(SUFFIXES)

#: zlib's memLevel for the preamble. It sets how many symbols share one Huffman table: at 6 the
#: preamble is 67 bytes smaller than at the default of 8, and smaller than at any other.
MEMORY_LEVEL = 6

#: First bytes sent to the child: a command that makes a shell exit, and a comment to check.
_OPENING = b"exit 78 #MITO\n"

# One line without single quotes, exclamation marks and dollar signs: sh, bash, csh and fish all
# read the same text. It must compile on Python 2.7, to report the version. sys.path is cleaned
# before the first import that uses it: the current directory can't be trusted. The last read may
# return frames after the zlib stream's end; they are passed on.
_FIRST_STAGE = (
    'from sys import*;path[:]=[p for p in path if p[:1]=="/"];from os import*;import zlib;'
    'write(1,("MITO:HELLO %s %s\\n"%(version.split()[0],executable)).encode());'
    'version_info<(3,6)and exit(1);d=zlib.decompressobj();h=s=b"";'
    'exec("while len(h)<14:h+=read(0,14-len(h))or exit(1)");'
    'h[8:]==b"#MITO\\n"or exit(write(1,b"MITO:EATEN\\n"));'
    'exec("while not d.eof:s+=d.decompress(read(0,9**6)or exit(1))");'
    'exec(s.split(b"\\0")[0])'
)

# The program that it runs, kept off the command line for its size. In a child all files of the core
# share one namespace, mitogen.core, so no import among them is sent; the name of each leads there.
_SECOND_STAGE = b"""\
_,o,s=s.split(b"\\0",2)
*f,c=s.split(b"\\0",len(o.split()))
m=modules["mitogen.core"]=type(zlib)("mitogen.core")
for n,t in zip(o.decode().split(),f):
 n="mitogen.core."+n;modules[n]=m
 exec(compile(t,"master:"+n.replace(".","/")+".py","exec"),m.__dict__)
m.child_main(c,b"\\0".join([o]+f),d.unused_data)
\0"""


def first_stage() -> str:
    """Return the program for `python -c`: Python source, str, one line."""
    return _FIRST_STAGE


def preamble(core_source: bytes) -> Callable[[bytes], bytes]:
    """
    Return a function that takes a configuration (bytes) and returns all that a child is sent
    before frames. The source is compressed once; each configuration continues the same stream.

    :param bytes core_source: names of the core's files, with blanks between, then the files; each
        of these followed by a zero byte, but for the last: see preamble.core_source()
    """
    shared = zlib.compressobj(9, zlib.DEFLATED, 15, MEMORY_LEVEL)
    head = _OPENING + shared.compress(_SECOND_STAGE + core_source + b"\0")

    def finish(config: bytes) -> bytes:
        own = shared.copy()
        return head + own.compress(config) + own.flush()

    return finish


def split_preamble(text: bytes) -> tuple[bytes, bytes]:
    """
    Return (core_source, configuration) of a preamble that is decompressed, as the second stage
    divides it.
    """
    _, names, rest = text.split(b"\0", 2)
    *files, config = rest.split(b"\0", len(names.split()))
    return b"\0".join([names, *files]), config


def remote_command(python_path: PythonPath, remote_name: str) -> list[str]:
    """
    Return the argument list for a login shell at the far end.

    :param python_path: str or list naming the interpreter, None to search for one
    :param str remote_name: name shown by ps
    """
    if python_path is None:
        return ["exec", "sh", "-c", quote(_SEARCH), quote(first_stage()), quote(remote_name)]
    if isinstance(python_path, (str, bytes)):
        python_path = [python_path]
    words: Any = python_path
    return [quote(str(arg)) for arg in words] + [
        "-c",
        quote(first_stage()),
        quote(remote_name),
    ]


EOF_TEXT = "EOF on stream; last 100 lines received:\n"


def guarded(argv: Sequence[str]) -> list[str]:
    """
    Return a command that reports that authentication is over, and then runs `argv`.

    For programs that may ask for a password and then run `argv` as another account. Python reads
    files of that account as it starts (usercustomize), and these could ask for the password. A
    POSIX shell reads none if it is not interactive. The text has no dollar sign: `sudo -i` does not
    quote it for the login shell.
    """
    command = " ".join(quote(str(arg)) for arg in argv)
    return ["/bin/sh", "-c", "echo MITO:PASSED;exec " + command]


class LoginError(StreamError):
    """
    A login that failed. `args` are the first line of the text, which programs compare with those of
    the method's module (`password_required_msg`), and the rest, which is the program's output.
    """

    __module__ = "mitogen.parent"

    def __init__(self, fmt: Any = None, *args: object) -> None:
        StreamError.__init__(self, fmt, *args)
        first, _, output = self.args[0].partition("\n")
        self.args = (first, output) if output else (first,)

    def __str__(self) -> str:
        return "\n".join(self.args)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ("%s", str(self))


class EofError(StreamError):
    """The program exited before it became a context."""

    __module__ = "mitogen.parent"


#: Events that end the conversation.
_LAST = ("failed", "eaten", "ready")


def _partial_marker(data: bytes) -> int:
    """Return the number of bytes at the end that may be the beginning of a marker."""
    return next((n for n in range(4, 0, -1) if data.endswith(b"MITO:"[:n])), 0)


class UnsupportedPythonError(StreamError):
    """The target has no usable Python."""

    __module__ = "mitogen.parent"


class Rule:
    """
    Reaction to a prompt or message that appears before the first stage starts.

    :param bytes pattern: regular expression, matched case-insensitively
    :param str answer: name of the answer to send (a key of `Handshake.answers`)
    :param missing: the error if there is no such answer
    :param again: the error if the answer was already sent once
    :param error: the error to fail with immediately
    :param bool asker: the first group is the asker of the prompts that follow: see Prompt
    :param bool unusual: the pattern may match the text of another program: see Prompt
    """

    def __init__(
        self,
        pattern: bytes,
        answer: str | None = None,
        missing: Failure | None = None,
        again: Failure | None = None,
        error: Failure | None = None,
        asker: bool = False,
        unusual: bool = False,
    ) -> None:
        self.pattern = re.compile(pattern, re.IGNORECASE)
        self.answer = answer
        self.missing = missing
        self.again = again
        self.error = error
        self.asker = asker
        self.unusual = unusual


class Prompt:
    """
    A prompt that is about to be answered.

    :param str answer: name of the answer
    :param str line: the line that the prompt is on, up to its end
    :param str asker: the asker, if an earlier line named it; else ""
    :param bool unusual: the attribute of the Rule
    """

    def __init__(self, answer: str, line: str, asker: str, unusual: bool) -> None:
        self.answer = answer
        self.line = line
        self.asker = asker
        self.unusual = unusual


class Handshake:
    """
    State of one conversation.

    :param rules: dict of channel name ("pipe", "tty", "err") to a list of Rule
    :param dict answers: texts to send, by the name used in a Rule; None if not known
    :param str lookup: names searched for, for the error about a missing interpreter
    """

    def __init__(
        self,
        rules: Mapping[str, Sequence[Rule]] | None = None,
        answers: Mapping[str, str | None] | None = None,
        lookup: str = "",
    ) -> None:
        self.rules = rules or {}
        self.answers = dict(answers or {})
        self.lookup = lookup
        #: "login", "passed" (authentication is over), "hello" or "ready".
        self.state = "login"
        #: The prompts of events "send", in the order of these.
        self.prompts: deque[Prompt] = deque()
        self._asker = ""
        self.version: tuple[int, ...] | None = None
        self.executable: str | None = None
        self.given: set[str | None] = set()
        self.lines: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._rest: dict[str, bytes] = {}
        self._seen = b""

    def output(self) -> str:
        """Return the last lines received, as text."""
        rest = [text for text in self._rest.values() if text.strip()]
        return "\n".join(line.decode("utf-8", "replace") for line in list(self.lines) + rest)

    def receive(self, channel: str, data: bytes) -> list[Event]:
        """
        Process bytes from a channel; return a list of events:

        ("send", channel, bytes), ("hello",), ("ready", bytes that follow), ("eaten",) or
        ("failed", exception). Don't call this after "ready", "eaten" or "failed".
        """
        try:
            return self._on_pipe(data) if channel == "pipe" else self._on_output(channel, data)
        except Exception as e:
            text = "the text of the program can't be parsed: %r\n%s" % (e, self.output())
            return [("failed", StreamError("%s", text))]

    def pass_login(self) -> None:
        """End the time in which prompts are answered, and forget the answers."""
        if self.state == "login":
            self.state = "passed"
        self.answers.clear()

    def _on_pipe(self, data: bytes) -> list[Event]:
        data = self._seen + data
        self._seen = b""
        events: list[Event] = []
        start = 0
        while start < len(data) and not (events and events[-1][0] in _LAST):
            at = data.find(b"MITO:", start)
            if at == -1:
                at = len(data) - _partial_marker(data)
                self._seen = data[at:] if at >= start else b""
            if at > start:
                events += self._on_output("pipe", data[start:at])
            if self._seen or at == len(data):
                break
            end = data.find(b"\n", at)
            if end == -1 and len(data) - at < KEPT_BYTES:
                self._seen = data[at:]
                break
            start = end + 1 if end != -1 else len(data)
            word, _, text = data[at + 5 : start].rstrip(b"\r\n").partition(b" ")
            if word == b"READY":
                self.state = "ready"
                events.append(("ready", data[start:]))
            elif word in self._MARKERS:
                events += self._MARKERS[word](self, text)
        return events

    def _on_passed(self, text: bytes) -> list[Event]:
        self.pass_login()
        return []

    def _on_hello(self, text: bytes) -> list[Event]:
        if self.state == "hello":
            return []
        self.pass_login()
        version, _, executable = text.decode("utf-8", "replace").partition(" ")
        # The length is limited because int() refuses thousands of digits.
        self.version = tuple(int(n) for n in re.findall(r"\d{1,9}", version[:100])[:3])
        self.executable = executable
        self.state = "hello"
        if self.version < MINIMUM_VERSION:
            found = "found %s, which is %s" % (executable[:1000], version[:100])
            return [("failed", self.unsupported(found))]
        return [("hello",)]

    def _on_eaten(self, text: bytes) -> list[Event]:
        return [("eaten",)]

    def _on_none(self, text: bytes) -> list[Event]:
        return [("failed", self.unsupported("found none"))]

    _MARKERS = {
        b"PASSED": _on_passed,
        b"HELLO": _on_hello,
        b"EATEN": _on_eaten,
        b"NONE": _on_none,
    }

    def unsupported(self, found: str) -> UnsupportedPythonError:
        return UnsupportedPythonError(
            "no usable Python found: looked for %s; %s; Python %d.%d or later is required "
            "(name an interpreter with python_path=)",
            self.lookup,
            found,
            *MINIMUM_VERSION,
        )

    def _on_output(self, channel: str, data: bytes) -> list[Event]:
        rest = self._rest.get(channel, b"") + data
        rules = self.rules.get(channel, ())
        pos = 0
        events: list[Event] = []
        while self.state == "login" and not (events and events[-1][0] == "failed"):
            found = self._first_match(rules, rest, pos)
            if not found:
                break
            rule, match = found
            pos = match.end()
            events += self._apply(rule, channel, rest, match)
        lines = rest[pos:].split(b"\n")
        self.lines.extend(line.rstrip(b"\r") for line in lines[:-1] if line.strip())
        self._rest[channel] = lines[-1][-KEPT_BYTES:]
        return events

    def _first_match(
        self, rules: Iterable[Rule], text: bytes, pos: int
    ) -> tuple[Rule, Match[bytes]] | None:
        matches = [(rule, rule.pattern.search(text, pos)) for rule in rules]
        found = [(rule, match) for rule, match in matches if match]
        return min(found, key=lambda pair: pair[1].start()) if found else None

    def _apply(self, rule: Any, channel: str, text: bytes, match: Match[bytes]) -> list[Event]:
        if rule.asker:
            self._asker = match.group(1).decode("utf-8", "replace")
            return []
        if rule.error:
            return [("failed", self._failure(rule.error, text))]
        answer = self.answers.get(rule.answer)
        if rule.answer in self.given:
            return [("failed", self._failure(rule.again or rule.missing, text))]
        if answer is None:
            return [("failed", self._failure(rule.missing, text))]
        self.given.add(rule.answer)
        line = text[: match.end()].decode("utf-8", "replace").rpartition("\n")[2]
        self.prompts.append(Prompt(rule.answer, line.strip(), self._asker, rule.unusual))
        where = "pipe" if channel == "pipe" else "tty"
        return [("send", where, answer.encode("utf-8", "surrogateescape") + b"\n")]

    def _failure(self, error: Failure, text: bytes) -> StreamError:
        cls, message = error
        output = text.decode("utf-8", "replace").strip()
        return cls("%s", message + ("\n" + output if output else ""))

    def eof(self, status: str | None = None) -> EofError:
        """Return the exception for the program's exit; `status` is text."""
        return EofError(
            EOF_TEXT + "%s%s",
            self.output(),
            "\n%s" % status if status else "",
        )

    def timeout(self, seconds: float) -> core.TimeoutError:
        """Return the exception for a deadline of that many seconds."""
        return mitogen.core.TimeoutError(
            "Failed to setup connection after %.2f seconds; last 100 lines received:\n%s",
            seconds,
            self.output(),
        )
