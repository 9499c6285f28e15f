"""
Parser of the command line of OpenSSH's `ssh`, as OpenSSH 9 reads it: ssh(1), ssh_config(5).

Two tables contain the meaning of options: `_FLAGS` for letters and `_KEYWORDS` for `-o`. Options in
neither are accepted and ignored, as there is no connection to make.

Rules
    1. Pure: no descriptors, environment or clocks. Output that must be printed at once (usage,
       version, error) is an exception, Answer.
    2. On input that OpenSSH rejects, parse() fails with the same text and with status 255. However,
       unknown keywords of `-o` are accepted, as they may be a newer ssh's.
    3. The first value of a keyword is used. Letters that OpenSSH stores at once overwrite.

Threads: any.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

__all__ = ["Answer", "Invocation", "parse"]

#: Options for getopt(3). A colon follows each letter that has an argument.
GETOPT = "1246ACGKMNTVXYZafgknqstvxyB:D:E:F:I:J:L:O:P:Q:R:S:W:b:c:e:i:l:m:o:p:w:"
#: Exit status of ssh for failures other than the remote program's own status.
FAILED = 255
VERSION = "OpenSSH_9.9p2 mitogen-fakessh, no cryptography of its own\n"
USAGE = """\
usage: ssh [-46AaCfGgKkMNnqsTtVvXxYy] [-B bind_interface] [-b bind_address]
           [-c cipher_spec] [-D [bind_address:]port] [-E log_file]
           [-e escape_char] [-F configfile] [-I pkcs11] [-i identity_file]
           [-J destination] [-L address] [-l login_name] [-m mac_spec]
           [-O ctl_cmd] [-o option] [-P tag] [-p port] [-Q query_option]
           [-R address] [-S ctl_path] [-W host:port]
           [-w local_tun[:remote_tun]] destination [command [argument ...]]
"""
#: Commands of `-O`; see ssh(1).
CONTROLS = ("check", "forward", "cancel", "exit", "stop", "proxy")

_TRUTHS = {"yes": True, "true": True, "no": False, "false": False}
_TTYS = {"yes": "yes", "true": "yes", "no": "no", "false": "no", "force": "force", "auto": "auto"}
_SESSIONS = {"none": "none", "subsystem": "subsystem", "default": "session"}
_LEVELS = {"quiet": 0, "fatal": 1, "error": 2, "info": 3, "verbose": 4}
_LEVELS.update({"debug": 5, "debug1": 5, "debug2": 6, "debug3": 7})
_FORWARDINGS = {"L": "local", "R": "remote", "D": "dynamic", "w": "tunnel"}

# The checks of OpenSSH since 9.6: valid_hostname(), valid_ruser() in ssh.c.
_BAD_HOST = re.compile("^-|['`\"$\\\\;&<>|(){}\\s\0-\x1f\x7f]")
_BAD_USER = re.compile("^-|['`\";&<>|(){}]|\\s-|\\\\\\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\.?\Z")


class Answer(Exception):
    """
    A command line that needs no connection, as an exception.

    :param int status: exit status
    :param str text: text for standard error
    """

    def __init__(self, status: int, text: str) -> None:
        Exception.__init__(self, text)
        self.status = status
        self.text = text


def _fail(text: str, *args: object) -> NoReturn:
    raise Answer(FAILED, (text % args if args else text) + "\n")


def _usage(why: str = "") -> NoReturn:
    raise Answer(FAILED, why + USAGE)


class Invocation:
    """The meaning of a command line."""

    #: "session", "subsystem", "forward" (-W), "none" (-N), "control" (-O) or "config" (-G).
    kind = "session"
    #: Host as given, without the user. An IPv6 address keeps its brackets, as in OpenSSH.
    host: str | None = None
    user: str | None = None
    port: int | None = None
    hostname: str | None = None
    #: Command for the remote shell, or name of the subsystem; None for a login shell.
    command: str | None = None
    #: (host, port) of `-W`.
    forward: tuple[str, int] | None = None
    #: Command of `-O`, one of CONTROLS.
    control: str | None = None
    #: Terminal request: "auto", "no", "yes" or "force".
    tty = "auto"
    stdin_null = False
    background = False
    exit_on_forward_failure = False
    #: Log level with OpenSSH's numbers: 0 is QUIET, 3 is INFO, 7 is DEBUG3.
    log_level = 3
    #: Byte value of the escape character, or None.
    escape: int | None = ord("~")

    def __init__(self) -> None:
        #: Patterns of variables to send, ssh_config(5) SendEnv.
        self.send_env: list[str] = []
        #: Variables to set.
        self.set_env: dict[str, str] = {}
        #: (kind, specification) of each -L, -R, -D and -w.
        self.forwardings: list[tuple[str, str]] = []

    @property
    def shows_errors(self) -> bool:
        """Whether errors are printed."""
        return self.log_level >= _LEVELS["error"]

    @property
    def shows_warnings(self) -> bool:
        """Whether warnings and notices are printed as well."""
        return self.log_level >= _LEVELS["info"]

    def wants_pty(self, stdin_is_tty: bool) -> tuple[bool, str]:
        """
        Return (whether the remote program gets a terminal, warning or "").

        :param bool stdin_is_tty: whether standard input is a terminal
        """
        if self.kind in ("forward", "none"):
            return False, ""
        no_command = self.command is None and self.kind == "session"
        wanted = self.tty in ("yes", "force") or no_command and self.tty == "auto"
        if self.tty != "force" and (not stdin_is_tty or self.stdin_null):
            why = "Pseudo-terminal will not be allocated because stdin is not a terminal.\n"
            return False, why if wanted else ""
        return wanted, ""

    def config(self, user: str) -> str:
        """Return the output of `-G` that programs look for. `user` is the default user."""
        return "host %s\nuser %s\nhostname %s\nport %d\n" % (
            self.host,
            user if self.user is None else self.user,
            self.host if self.hostname is None else self.hostname,
            self.port or 22,
        )

    def environment(self, local: dict[str, str]) -> dict[str, str]:
        """Return the variables that SendEnv and SetEnv add to the remote environment."""
        import fnmatch

        found = {
            name: value
            for name, value in local.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.send_env)
        }
        found.update(self.set_env)
        return found


def parse(argv: Sequence[str]) -> Invocation:
    """
    Parse a command line of ssh.

    :param argv: arguments, without the program's name
    :raises Answer: the command line needs no connection: `-V`, `-Q`, a usage error
    """
    return _Parser(list(argv)).run()


class _Parser:
    """The state of parsing one command line."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.found = Invocation()
        #: Values by the name of Invocation's attribute, for which the first value is used.
        self.set: dict[str, object] = {}
        self.config = False
        self.remote_command: str | None = None
        self.clear_forwardings = False
        self.verbose = False

    # -- letters

    def run(self) -> Invocation:
        at, ended = self._options(0)
        if at < len(self.argv):
            self._destination(self.argv[at])
            at += 1
            if at < len(self.argv) and not ended:
                at, ended = self._options(at)
        if self.found.host is None:
            _usage()
        self._finish(self.argv[at:])
        return self.found

    def _options(self, at: int) -> tuple[int, bool]:
        """Parse options from index `at`; return (the index after them, whether `--` ended them)."""
        start = at
        argv = self.argv
        while at < len(argv):
            word = argv[at]
            if word == "--":
                at += 1
                break
            if word[:1] != "-" or word == "-":
                break
            at = self._word(word, at + 1)
        # The same check as in OpenSSH: it is also true if `--` is an option's argument.
        return at, at > start and argv[at - 1] == "--"

    def _word(self, word: str, at: int) -> int:
        """Parse a word of options; return the index of the next word."""
        for pos in range(1, len(word)):
            letter = word[pos]
            where = GETOPT.find(letter) if letter != ":" else -1
            if where < 0:
                _usage("unknown option -- %s\n" % letter)
            if GETOPT[where + 1 : where + 2] != ":":
                self._letter(letter, "")
                continue
            value = word[pos + 1 :]
            if not value:
                if at == len(self.argv):
                    _usage("option requires an argument -- %s\n" % letter)
                value = self.argv[at]
                at += 1
            self._letter(letter, value)
            break
        return at

    def _letter(self, letter: str, value: str) -> None:
        take = _FLAGS.get(letter)
        if take:
            take(self, value)

    def put(self, name: str, value: object) -> None:
        """Set an attribute of the result, replacing an earlier value."""
        self.set[name] = value

    def put_first(self, name: str, value: object) -> None:
        """Set an attribute of the result, unless it has a value."""
        self.set.setdefault(name, value)

    # -- the destination

    def _destination(self, text: str) -> None:
        found = self.found
        if text[:6] == "ssh://":
            user, found.host, port = _uri(text[6:])
            if port is not None:
                self.put_first("port", port)
        else:
            user, at, found.host = text.rpartition("@")
            if at and not user:
                _usage()
        if user:
            self.put_first("user", user)

    # -- the end

    def _finish(self, words: list[str]) -> None:
        found = self.found
        # Named as in OpenSSH. A value set by -N or -W counts like any other.
        session = self.set.pop("session", "session")
        found.__dict__.update(self.set)
        if _BAD_HOST.search(found.host or ""):
            _fail("hostname contains invalid characters")
        if found.user is not None and _BAD_USER.search(found.user):
            _fail("remote username contains invalid characters")
        found.command = " ".join(words) if words else None
        if self.remote_command is not None:
            if found.command is not None:
                _fail("Cannot execute command-line and remote command.")
            found.command = self._expand(self.remote_command)
        if session == "subsystem" and found.command is None:
            _usage("You must specify a subsystem to invoke.\n")
        if found.background:
            found.stdin_null = True
            if found.command is None and session != "none" and not found.control:
                _fail("Cannot fork into background without a command to execute.")
        if self.clear_forwardings:
            found.forwardings = []
        found.kind = str(session)
        if self.config:
            found.kind = "config"
        elif found.control:
            found.kind = "control"
        elif found.forward:
            found.kind = "forward"

    def _expand(self, text: str) -> str:
        """Replace tokens of RemoteCommand, ssh_config(5) TOKENS, that have a meaning here."""
        found = self.found
        name = found.host if found.hostname is None else found.hostname
        known = {"%": "%", "h": name, "n": found.host, "p": found.port or 22, "r": found.user or ""}
        return re.sub("%(.)", lambda m: str(known.get(m.group(1), m.group(0))), text)

    # -- keywords

    def keyword(self, line: str) -> None:
        """Parse the argument of `-o`: a line of ssh_config(5)."""
        name, rest = _delimited(line.rstrip(" \t\r\n\f"))
        if not name and rest:
            name, rest = _delimited(rest)
        if not name or name[0] == "#":
            return
        name = name.lower()
        rest = rest.lstrip(" \t\r\n")
        if not rest:
            _fail('command-line line 0: no argument after keyword "%s"', name)
        words = _words(rest)
        if name == "remotecommand":
            if rest.lower() != "none" and self.remote_command is None:
                self.remote_command = rest.lstrip(" \t\r\n=")
            return
        take = _KEYWORDS.get(name)
        if not take:
            return
        if name not in _MANY:
            if not words or not words[0]:
                _fail("command-line line 0: missing argument.")
            if len(words) > 1:
                _fail("command-line line 0: keyword %s extra arguments at end of line", name)
        take(self, words)


def _delimited(text: str) -> tuple[str, str]:
    """Split a text into (first word, rest), like strdelim() in misc.c; one `=` may be between."""
    if text[:1] == '"':
        end = text.find('"', 1)
        if end < 0:
            # OpenSSH reports no error but ignores the line.
            return "", ""
        return text[1:end], re.sub(r"\A[ \t\r\n]*=?", "", text[end + 1 :])
    found = re.match(r"([^ \t\r\n=]*)(?:[ \t\r\n]+=?|=)?[ \t\r\n]*", text)
    return (found.group(1), text[found.end() :]) if found else ("", "")


def _words(text: str) -> list[str]:
    """Split a line into words, with quotes and escapes removed, like argv_split() in misc.c."""
    found: list[str] = []
    at = 0
    while True:
        while text[at : at + 1] in (" ", "\t"):
            at += 1
        if text[at : at + 1] in ("", "#"):
            return found
        word, at = _word(text, at)
        found.append(word)


def _word(text: str, at: int) -> tuple[str, int]:
    """Return (the word that begins at `at`, the index of its end)."""
    word = quote = ""
    while at < len(text):
        char, following = text[at], text[at + 1 : at + 2]
        if char == "\\" and following and (following in "'\"\\" or following == " " and not quote):
            word += following
            at += 1
        elif not quote and char in " \t":
            break
        elif not quote and char in "'\"":
            quote = char
        elif quote and char == quote:
            quote = ""
        else:
            word += char
        at += 1
    if quote:
        _fail("command-line line 0: invalid quotes")
    return word, at


def _uri(text: str) -> tuple[str, str, int | None]:
    """Parse text after `ssh://` into (user or "", host, port or None): parse_uri() in misc.c."""
    account, at, where = text.partition("@")
    match = re.match(r"(\[[^\]]*\]|[^:/]*)(?::([^/]*))?(?:/(.*))?\Z", where if at else text)
    user = account.partition(";")[0] if at else ""
    if not match or at and not user:
        _usage()
    host, port, path = match.groups()
    host = host[1:-1] if host[:1] == "[" else host
    # OpenSSH's own check rejects IPv6 addresses here. They are accepted.
    if path or not (_DOMAIN.match(host) or re.match(r"[0-9A-Fa-f:.]+(%\w+)?\Z", host)):
        _usage()
    number = _port(port) if port else None
    if port and number is None:
        _usage()
    return _decoded(user), host, number


def _decoded(text: str) -> str:
    """Return a text with `%XX` decoded, RFC 3986, 2.1."""
    from urllib.parse import unquote

    return unquote(text, errors="surrogateescape")


def _port(text: str) -> int | None:
    """Parse a port: a number, like strtonum(3), or the name of a service (services(5))."""
    if re.match(r"\s*[+-]?[0-9]+\Z", text):
        number = int(text)
    else:
        import socket

        try:
            number = socket.getservbyname(text, "tcp")
        except (OSError, ValueError):
            number = 0
    return number if 0 < number < 65536 else None


def _fields(text: str) -> list[str]:
    """Split a forwarding into fields without brackets; return [] if it is ambiguous."""
    rest, found = text.lstrip(), []
    while rest:
        match = re.match(r"\[([^\]]*)\](?::|\Z)|(?!\[)((?:\\.|[^:\\])*)(?::|\Z)", rest, re.DOTALL)
        if not match:
            return []
        bracketed, plain = match.groups()
        found.append(re.sub(r"\\(.)", r"\1", plain) if bracketed is None else bracketed)
        rest = rest[match.end() :]
    return found


# ---- letters


def _take_tty(parser: _Parser, value: str) -> None:
    parser.put("tty", "force" if parser.set.get("tty") == "yes" else "yes")


def _take_null(parser: _Parser, value: str) -> None:
    parser.put("stdin_null", True)


def _take_background(parser: _Parser, value: str) -> None:
    parser.put("background", True)
    parser.put("stdin_null", True)


def _take_none(parser: _Parser, value: str) -> None:
    if parser.set.get("session", "none") != "none":
        _fail("Cannot specify -N with -s/SessionType")
    parser.put("session", "none")
    parser.put("tty", "no")


def _take_subsystem(parser: _Parser, value: str) -> None:
    if parser.set.get("session", "subsystem") != "subsystem":
        _fail("Cannot specify -s with -N/SessionType")
    parser.put("session", "subsystem")


def _take_control(parser: _Parser, value: str) -> None:
    if "forward" in parser.set:
        _fail("Cannot specify multiplexing command with -W")
    if "control" in parser.set:
        _fail("Multiplexing command already specified")
    if value not in CONTROLS:
        _fail("Invalid multiplex command.")
    parser.put("control", value)


def _take_stdio_forward(parser: _Parser, value: str) -> None:
    if "forward" in parser.set:
        _fail("stdio forward already specified")
    if "control" in parser.set:
        _fail("Cannot specify stdio forward with -O")
    # Parsed like the argument of -D: a port or a path alone is valid, and forwards nothing.
    fields = _fields(value)
    has_host = len(fields) == 2 and "/" not in fields[1]
    port = _port(fields[1 if has_host else 0]) if len(fields) in (1, 2) else None
    is_path = len(fields) in (1, 2) and all("/" in field for field in fields)
    if port is None and not is_path:
        _fail("Bad stdio forwarding specification '%s'", value)
    if has_host:
        parser.put("forward", (fields[0], port))
    parser.put("tty", "no")
    parser.put("session", "none")


def _escape(text: str) -> tuple[bool, int | None]:
    """Parse an escape character; return (whether it is valid, the byte or None)."""
    if text == "none":
        return True, None
    if len(text) == 2 and text[0] == "^" and 64 <= ord(text[1]) < 128:
        return True, ord(text[1]) & 31
    data = text.encode("utf-8", "surrogateescape")
    return len(data) == 1, data[0] if len(data) == 1 else None


def _take_escape(parser: _Parser, value: str) -> None:
    good, byte = _escape(value)
    if not good:
        _fail("Bad escape character '%s'.", value)
    parser.put("escape", byte)


def _take_port(parser: _Parser, value: str) -> None:
    if "port" not in parser.set:
        if _port(value) is None:
            _fail("Bad port '%s'", value)
        parser.put("port", _port(value))


def _take_verbose(parser: _Parser, value: str) -> None:
    # The first -v overwrites the level, the others increase it.
    level: Any = parser.set.get("log_level", 3) if parser.verbose else 4
    parser.verbose = True
    parser.put("log_level", min(level + 1, 7))


def _take_version(parser: _Parser, value: str) -> NoReturn:
    raise Answer(0, VERSION)


def _take_query(parser: _Parser, value: str) -> NoReturn:
    # There are no ciphers, keys or algorithms to list.
    raise Answer(0, "")


def _take_config(parser: _Parser, value: str) -> None:
    parser.config = True


def _forwarding(letter: str) -> Callable[[_Parser, str], None]:
    def take(parser: _Parser, value: str) -> None:
        parser.found.forwardings.append((_FORWARDINGS[letter], value))

    return take


_FLAGS: dict[str, Callable[[_Parser, str], None]] = {
    "G": _take_config,
    "N": _take_none,
    "O": _take_control,
    "Q": _take_query,
    "T": lambda parser, value: parser.put("tty", "no"),
    "V": _take_version,
    "W": _take_stdio_forward,
    "e": _take_escape,
    "f": _take_background,
    "l": lambda parser, value: parser.put_first("user", value),
    "n": _take_null,
    "o": lambda parser, value: parser.keyword(value),
    "p": _take_port,
    "q": lambda parser, value: parser.put("log_level", 0),
    "s": _take_subsystem,
    "t": _take_tty,
    "v": _take_verbose,
}
_FLAGS.update((letter, _forwarding(letter)) for letter in _FORWARDINGS)

# ---- keywords


def _choice(attribute: str, choices: dict[str, object]) -> Callable[[_Parser, list[str]], None]:
    def take(parser: _Parser, words: list[str]) -> None:
        if words[0].lower() not in choices:
            _fail('command-line line 0: unsupported option "%s".', words[0])
        parser.put_first(attribute, choices[words[0].lower()])

    return take


def _text(attribute: str) -> Callable[[_Parser, list[str]], None]:
    return lambda parser, words: parser.put_first(attribute, words[0])


def _keyword_port(parser: _Parser, words: list[str]) -> None:
    if _port(words[0]) is None:
        _fail("command-line line 0: Bad port '%s'.", words[0])
    parser.put_first("port", _port(words[0]))


def _keyword_escape(parser: _Parser, words: list[str]) -> None:
    good, byte = _escape(words[0])
    if not good:
        _fail("command-line line 0: Bad escape character.")
    parser.put_first("escape", byte)


def _keyword_level(parser: _Parser, words: list[str]) -> None:
    if words[0].lower() not in _LEVELS:
        _fail("command-line line 0: unsupported log level '%s'", words[0])
    parser.put_first("log_level", _LEVELS[words[0].lower()])


def _keyword_send_env(parser: _Parser, words: list[str]) -> None:
    from fnmatch import fnmatchcase

    patterns = parser.found.send_env
    for word in words:
        if not word or "=" in word:
            _fail("command-line line 0: Invalid environment name.")
        if word[0] == "-":
            patterns[:] = [each for each in patterns if not fnmatchcase(each, word[1:])]
        else:
            patterns.append(word)


def _keyword_set_env(parser: _Parser, words: list[str]) -> None:
    if any("=" not in word for word in words):
        _fail("command-line line 0: Invalid SetEnv.")
    if not parser.found.set_env:
        for word in words:
            name, _, value = word.partition("=")
            parser.found.set_env.setdefault(name, value)


def _keyword_forward(kind: str) -> Callable[[_Parser, list[str]], None]:
    def take(parser: _Parser, words: list[str]) -> None:
        parser.found.forwardings.append((kind, " ".join(words)))

    return take


def _keyword_clear(parser: _Parser, words: list[str]) -> None:
    if _TRUTHS.get(words[0].lower()):
        parser.clear_forwardings = True


_KEYWORDS: dict[str, Callable[[_Parser, list[str]], None]] = {
    "clearallforwardings": _keyword_clear,
    "dynamicforward": _keyword_forward("dynamic"),
    "escapechar": _keyword_escape,
    "exitonforwardfailure": _choice("exit_on_forward_failure", dict(_TRUTHS)),
    "forkafterauthentication": _choice("background", dict(_TRUTHS)),
    "hostname": _text("hostname"),
    "localforward": _keyword_forward("local"),
    "loglevel": _keyword_level,
    "port": _keyword_port,
    "remoteforward": _keyword_forward("remote"),
    "requesttty": _choice("tty", dict(_TTYS)),
    "sendenv": _keyword_send_env,
    "sessiontype": _choice("session", dict(_SESSIONS)),
    "setenv": _keyword_set_env,
    "stdinnull": _choice("stdin_null", dict(_TRUTHS)),
    "user": _text("user"),
}

#: Keywords that have any number of arguments.
_MANY = ("dynamicforward", "localforward", "remoteforward", "sendenv", "setenv")
