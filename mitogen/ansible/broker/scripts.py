"""
Recognize the commands that Ansible runs on a host, and split scripts into parts to be sent once.

Rules
    1. Only a command that certainly means "this Python, reading a script from its standard input"
       is treated as such. Any other command is run unchanged.
    2. The only assumption on scripts is that some of their bytes recur in later ones: the release
       of Ansible that wrote a script does not matter.

Threads: any, one at a time for a Divider.
"""

from __future__ import annotations

import binascii
import re
import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class Piped(NamedTuple):
        interpreter: str
        environment: dict[str, str]
else:
    from collections import namedtuple

    Piped = namedtuple("Piped", "interpreter environment")

__all__ = ["LONG", "Divider", "Piped", "inner_command", "pack", "piped_python"]

#: Bytes from which a part is regarded as data, such as a zip, and cached.
LONG = 65536

#: Suffix that the `sh` plugin adds to a command that runs over a connection with a terminal.
_PAUSE = ["&&", "sleep", "0"]
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)\Z", re.DOTALL)
_INTERPRETER = re.compile(r"(?:/[\w.+@~-]+)*/?(?:python|pypy)[\w.-]*\Z")
#: Average number of lines per part: a line ends a part if its digest is below 256 / _BOUNDARY.
_BOUNDARY = 16
#: Bytes above which a line is a part of its own.
_LONG = 1024
#: Maximum number of long parts with a cached digest.
_KNOWN = 8
#: A zip in base64, as in zygote.py.
_BASE64 = re.compile(rb"UEsDB[A-Za-z0-9+/]{2000,}={0,2}")


def _words(command: str) -> list[str] | None:
    try:
        return shlex.split(command)
    except ValueError:
        return None


def inner_command(command: str, executable: str = "/bin/sh") -> str | None:
    """Return the command in `/bin/sh -c ...`; None if the command has another form."""
    words = _words(command)
    if words and len(words) == 3 and words[:2] == [executable, "-c"]:
        return words[2]
    return None


def piped_python(command: str) -> Piped | None:
    """
    Return (interpreter, environment) of a command that is a Python reading its standard input.

    :param str command: argument of `/bin/sh -c`
    """
    words = _words(command)
    if not words:
        return None
    if words[-3:] == _PAUSE:
        words = words[:-3]
    environment = {}
    while words:
        found = _ASSIGNMENT.match(words[0])
        if not found:
            break
        environment[found.group(1)] = found.group(2)
        words = words[1:]
    if len(words) != 1 or not _INTERPRETER.match(words[0]):
        return None
    bare = command[: command.index(words[0])] if environment else ""
    if any(char in bare for char in "$`"):
        # The shell would expand it.
        return None
    return Piped(words[0], environment)


class Divider:
    """
    Splitter of scripts at line ends, in the same places wherever the text is the same. Digests of
    long parts are cached.
    """

    def __init__(self) -> None:
        #: Cache: length to (digest, bytes).
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def parts(self, script: bytes) -> list[tuple[bytes, bytes]]:
        """Split a script; return pairs of digest and bytes."""
        # Not at the top: importing it takes 5 ms, which are available once ssh has been started.
        from hashlib import md5

        found = []
        start = at = 0
        while at < len(script):
            end = script.find(b"\n", at) + 1 or len(script)
            is_long = end - at > _LONG
            if is_long and start < at:
                found.append(script[start:at])
                start = at
            if is_long or md5(script[at:end]).digest()[0] < 256 // _BOUNDARY:
                found.append(script[start:end])
                start = end
            at = end
        if start < at:
            found.append(script[start:])
        return [(self._digest(data), data) for data in found]

    def _digest(self, data: bytes) -> bytes:
        from hashlib import sha256

        digest, known = self._known.get(len(data), (b"", b""))
        if not digest or known != data:
            digest = sha256(data).digest()[:16]
            if len(data) >= LONG:
                if len(self._known) >= _KNOWN:
                    self._known.clear()
                self._known[len(data)] = digest, data
        return digest


def pack(data: bytes) -> Any:
    """Pack a part for runner.unpack(), by decoding the base64 of its zip, if it has one."""
    found = _BASE64.search(data)
    if found:
        try:
            raw = binascii.a2b_base64(found.group())
        except ValueError:
            return data
        if binascii.b2a_base64(raw, newline=False) == found.group():
            return [data[: found.start()], raw, data[found.end() :]]
    return data
