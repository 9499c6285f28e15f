"""
Specs: texts that name a context hop by hop, such as `ssh:user@host:22/sudo:root/docker:web`.

    spec   = hop *( "/" hop )
    hop    = method [ ":" target ] [ "?" option *( "&" option ) ]
    option = name "=" value

TARGETS defines the target of each method; an option is a keyword argument of the method.

Rules
    1. `%XX` stands for a byte of UTF-8 and is decoded last, so an encoded character is never a
       separator (RFC 3986, 2.4). It is needed for a slash in a target, `&` or `%` in a value, etc.
    2. In a value a slash stays a slash (`?python_path=/usr/bin/python3`) unless names of methods
       follow, up to a `:`, a `?` or the end: `?port=22/sudo:root` is two hops.
    3. No hop is started before all hops are validated. If one fails, the hops that were connected
       for it are ended.

Threads: any.
"""

from __future__ import annotations

import re
from shlex import split

from mitogen import core
from mitogen.methods.registry import METHODS, get_connection_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from mitogen.tree.contexts import Context
    from mitogen.tree.router import Router

    Hop = tuple[str, dict[str, Any]]

__all__ = ["connect", "parse"]

_ACCOUNT = r"(?P<username>[^@:]*)"
_CONTAINER = r"(?P<container>[^@:]+)"
_CONTAINER_OF = r"(?:(?P<username>[^@:]+)@)?" + _CONTAINER

#: Method to its target: a description, and a regular expression whose groups are options. If it
#: matches "", the target is optional.
TARGETS = {
    "local": ("nothing", r""),
    "fork": ("nothing", r""),
    "ssh": (
        "[user@]host[:port], with brackets around an IPv6 address",
        r"(?:(?P<username>[^@:\[\]]+)@)?(?:\[(?P<address>[0-9A-Fa-f:.]+(?:%25[^\]]+)?)\]"
        r"|(?P<hostname>[^@:\[\]]+))(?::(?P<port>\d+))?",
    ),
    "sudo": ("[user]", _ACCOUNT),
    "su": ("[user]", _ACCOUNT),
    "doas": ("[user]", _ACCOUNT),
    "docker": ("[user@]container, or the option image", "(?:%s)?" % _CONTAINER_OF),
    "podman": ("[user@]container", _CONTAINER_OF),
    "buildah": ("[user@]container", _CONTAINER_OF),
    "jail": ("[user@]jail", _CONTAINER_OF),
    "lxc": ("container", _CONTAINER),
    "lxd": ("instance", r"(?P<container>[^@]+)"),
    "incus": ("instance", r"(?P<container>[^@]+)"),
    "kubectl": ("pod[@namespace]", r"(?P<pod>[^@:]+)(?:@(?P<namespace>[^@:]+))?"),
    "setns": ("kind:[user@]container", r"(?P<kind>[^@:]+):" + _CONTAINER_OF),
    "command": ("command line, split as a shell does", r"(?P<argv>.+)"),
}

_METHODS = "(?:%s)" % "|".join(sorted(METHODS))
#: End of a hop with options: see rule 2.
_END_OF_OPTIONS = re.compile(r"/(?=%s(?:/%s)*(?:[:?]|\Z))" % (_METHODS, _METHODS))
#: Part of a value that looks like a hop.
_HOP_IN_VALUE = re.compile(r"/(\w+)[:?]")

_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _truth(text: str) -> bool:
    return _TRUTHS[text.lower()]


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError(text)
    return int(text)


def _terminal(text: str) -> Any:
    return text if text == "stdio" else _truth(text)


def _refuse(text: str) -> Any:
    raise ValueError(text)


_CONVERTERS: dict[Any, tuple[str, list[str]]] = {
    _port: ("a number from 1 to 65535", ["port"]),
    int: (
        "a number",
        ["keepalive_count", "keepalive_interval", "max_message_size", "ssh_debug_level"],
    ),
    float: ("a number of seconds", ["connect_timeout"]),
    _truth: (
        "true or false",
        ["compression", "debug", "identities_only", "keepalive_enabled", "login"]
        + ["preserve_env", "profiling", "set_home", "unidirectional"],
    ),
    _terminal: ("true, false or stdio", ["tty"]),
    split: (
        "words, quoted as for a shell",
        ["argv", "docker_args", "kubectl_args", "ssh_args"] + ["sudo_args"],
    ),
    _refuse: (
        "allowed in a spec; pass it as an argument of from_spec()",
        ["incorrect_prompts", "on_fork", "on_start", "prompts"],
    ),
}
#: Option that is not text to (function that converts the text, description of the type).
CONVERTERS = {name: (make, say) for make, (say, names) in _CONVERTERS.items() for name in names}


class _Parser:
    """Parser of one spec; its errors include the position."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError("a spec is a str, not %r" % (text,))
        self.text = text

    def fail(self, at: int, why: str) -> NoReturn:
        raise ValueError("spec %r, position %d: %s" % (self.text, at, why))

    def hops(self) -> list[Hop]:
        found = []
        at = 0
        while True:
            end = self._end(at)
            found.append(self._hop(at, end))
            if end == len(self.text):
                return found
            at = end + 1

    def _end(self, at: int) -> int:
        """Return the end position of the hop that begins at `at`."""
        plain = re.compile(r"[^/?]*").match(self.text, at)
        end = plain.end() if plain else at
        if self.text[end : end + 1] == "?":
            found = _END_OF_OPTIONS.search(self.text, end)
            end = found.start() if found else len(self.text)
        return end

    def _hop(self, at: int, end: int) -> Hop:
        before, question, options = self.text[at:end].partition("?")
        method, colon, target = before.partition(":")
        if method not in TARGETS:
            known = ", ".join(sorted(TARGETS))
            self.fail(at, "%r is not a connection method; known methods: %s" % (method, known))
        kwargs = self._target(at + len(method) + len(colon), method, target)
        at += len(before) + 1
        for option in options.split("&") if question else []:
            self._option(at, method, option, kwargs)
            at += len(option) + 1
        return method, kwargs

    def _target(self, at: int, method: str, target: str) -> dict[str, Any]:
        say, pattern = TARGETS[method]
        found = re.compile(pattern + r"\Z").match(target)
        if not found:
            self.fail(at, "%r is not a valid target of %s; expected %s" % (target, method, say))
        groups = {name: text for name, text in found.groupdict().items() if text}
        if "address" in groups:
            groups["hostname"] = groups.pop("address")
        return {name: self._value(at, name, text) for name, text in groups.items()}

    def _option(self, at: int, method: str, option: str, kwargs: dict[str, Any]) -> None:
        name, equals, value = option.partition("=")
        if not equals:
            self.fail(at, "%r is not an option, name=value" % option)
        if not name.isidentifier() or method != "command" and name not in _known_options(method):
            known = ", ".join(sorted(_known_options(method)))
            self.fail(at, "%s has no option %r; known options: %s" % (method, name, known))
        if name in kwargs:
            self.fail(at, "%s is given twice" % name)
        at += len(name) + 1
        hop = _HOP_IN_VALUE.search(value)
        if hop:
            known = ", ".join(sorted(TARGETS))
            self.fail(
                at + hop.start(1),
                "%r is not a connection method; known methods: %s (write a slash "
                "in a value as %%2F)" % (hop.group(1), known),
            )
        kwargs[name] = self._value(at, name, value)

    def _value(self, at: int, name: str, raw: str) -> Any:
        bad = re.search("%(?![0-9A-Fa-f]{2})", raw)
        if bad:
            self.fail(at + bad.start(), "%r must be followed by two hexadecimal digits" % "%")
        text = re.sub(b"%(..)", _byte, raw.encode("utf-8", "surrogateescape"))
        value = text.decode("utf-8", "surrogateescape")
        convert, say = CONVERTERS.get(name, (str, ""))
        try:
            return convert(value)
        except (ValueError, KeyError):
            self.fail(at, "%s=%s is not %s" % (name, value, say))


def _byte(match: Any) -> bytes:
    return bytes((int(match.group(1), 16),))


def _known_options(method: str) -> list[str]:
    """Return the names of the options that a method has."""
    import inspect

    known: list[str] = []
    for cls in get_connection_class(method).options_class.__mro__:
        parameters = inspect.signature(cls).parameters.values()
        known += [each.name for each in parameters if each.kind != each.VAR_KEYWORD]
        if all(each.kind != each.VAR_KEYWORD for each in parameters):
            break
    return known


def parse(text: str) -> list[Hop]:
    """
    Parse a spec into [(method, keyword arguments), ...], the nearest hop first.

    :param str text: see this module's docstring
    :raises ValueError: the spec is malformed; the text has the position and the known names

    >>> parse("ssh:ann@[::1]:2222/sudo")
    [('ssh', {'username': 'ann', 'port': 2222, 'hostname': '::1'}), ('sudo', {})]
    """
    return _Parser(text).hops()


def connect(router: Router, text: str, **kwargs: Any) -> Context:
    """
    Connect along a spec, each hop through the one before, and return the Context of the last hop.
    The other contexts are kept: they are its `via`, the `via` of that one and so on.

    :param Router router: router of this context
    :param str text: see this module's docstring
    :param kwargs: options of the last hop, which override those of the spec. Pass its password
        here, since specs get into logs. `via`, a Context, is where the first hop starts instead
    :raises ValueError: the spec is malformed
    :raises TypeError: a method lacks a given option, or a required option is missing
    :raises StreamError: a hop failed; the text names it. Hops that were connected for it are ended
    """
    via = kwargs.pop("via", None)
    hops = parse(text)
    hops[-1][1].update(kwargs)
    for method, options in hops:
        checked = {name: value for name, value in options.items() if name != "name"}
        get_connection_class(method).options_class(**checked)
    made: list[Context] = []
    try:
        for method, options in hops:
            via = router.connect(method, via=via, **options)
            made.append(via)
    except BaseException as e:
        if made:
            _end(router, made[0])
            if isinstance(e, (core.StreamError, core.TimeoutError)):
                raise type(e)("hop %d, %s: %s", len(made) + 1, method, e) from e
        raise
    return made[-1]


def _end(router: Router, context: Context) -> None:
    """End a context, and with it all contexts reached through it."""
    latch = context.shutdown()
    try:
        latch.get(router.broker.shutdown_timeout)
    except core.TimeoutError:
        router.disconnect(context)
