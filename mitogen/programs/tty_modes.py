"""
Terminal modes on the wire: termios attributes as opcodes and values of RFC 4254, section 8 (and
IUTF8 of RFC 8160), since the bits of termios differ between systems.

    modes  = *( opcode value ) [ TTY_OP_END ]
    opcode = 1 byte; value = 4 bytes, big-endian

Rules
    1. Modes that this system does not have are neither encoded nor applied.
    2. Any bytes can be applied. A truncated pair and an invalid value are ignored. An opcode of 160
       or above ends the modes, since the length of its argument is unknown.

Threads: any.
"""

from __future__ import annotations

import errno
import os
import struct
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["apply", "encode", "merge", "parse"]

TTY_OP_END, TTY_OP_ISPEED, TTY_OP_OSPEED = 0, 128, 129
#: The first opcode whose argument RFC 4254 does not define.
FIRST_UNKNOWN = 160
#: Value that means "no such character".
NO_CHARACTER = 255

#: Positions in the list that termios.tcgetattr() returns.
IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)

#: Flag missing in Python's termios. It is the same on Linux, macOS and FreeBSD.
_IUTF8 = 0x4000


def _numbered(first: int, names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), first))


#: Opcode to the name of a special character, or of its older spelling in termios.
CHARACTERS = _numbered(
    1,
    "VINTR VQUIT VERASE VKILL VEOF VEOL VEOL2 VSTART VSTOP VSUSP VDSUSP VREPRINT VWERASE VLNEXT"
    " VFLUSH VSWTCH VSTATUS VDISCARD",
)
#: Position in the attributes to {opcode: name of the flag}.
FLAGS = {
    IFLAG: _numbered(
        30, "IGNPAR PARMRK INPCK ISTRIP INLCR IGNCR ICRNL IUCLC IXON IXANY IXOFF IMAXBEL IUTF8"
    ),
    LFLAG: _numbered(
        50,
        "ISIG ICANON XCASE ECHO ECHOE ECHOK ECHONL NOFLSH TOSTOP IEXTEN ECHOCTL ECHOKE PENDIN",
    ),
    OFLAG: _numbered(70, "OPOST OLCUC ONLCR OCRNL ONOCR ONLRET"),
    CFLAG: {92: "PARENB", 93: "PARODD"},
}
#: Opcode to the value of CSIZE that it sets. CSIZE is a number, not a flag.
SIZES = {90: "CS7", 91: "CS8"}
SPEEDS = {TTY_OP_ISPEED: ISPEED, TTY_OP_OSPEED: OSPEED}


def _flags() -> dict[int, tuple[int, int]]:
    """Return {opcode: (position in the attributes, bit)} of the flags that this system has."""
    found = {}
    for position, names in FLAGS.items():
        for opcode, name in names.items():
            bit = getattr(termios, name, _IUTF8 if name == "IUTF8" else 0)
            if bit:
                found[opcode] = position, bit
    return found


def _characters() -> dict[int, int]:
    """Return {opcode: position among the special characters}."""
    have = vars(termios)
    return {opcode: have[name] for opcode, name in CHARACTERS.items() if name in have}


def _speeds() -> dict[int, int]:
    """Return {bits per second: termios' number for it}."""
    names = [name for name in vars(termios) if name[0] == "B" and name[1:].isdigit()]
    return {int(name[1:]): getattr(termios, name) for name in names}


def _no_character(fd: int) -> int:
    """Return the character that means "none" on this system, for example in VEOL."""
    try:
        return os.fpathconf(fd, "PC_VDISABLE") & 255
    except (OSError, ValueError):
        return 0


def encode(attrs: list[Any], no_character: int = 0) -> bytes:
    """
    Return terminal attributes as encoded terminal modes (RFC 4254, section 8).

    :param list attrs: as returned by `termios.tcgetattr()`
    :param int no_character: this system's value for an unused special character; 0 on Linux
    """
    pairs = []
    for opcode, at in sorted(_characters().items()):
        value = ord(attrs[CC][at]) if isinstance(attrs[CC][at], bytes) else attrs[CC][at]
        pairs.append((opcode, NO_CHARACTER if value == no_character else value))
    for opcode, (position, bit) in sorted(_flags().items()):
        pairs.append((opcode, int(bool(attrs[position] & bit))))
    for opcode, name in SIZES.items():
        pairs.append((opcode, int(attrs[CFLAG] & termios.CSIZE == getattr(termios, name))))
    speeds = {number: bits for bits, number in _speeds().items()}
    for opcode, position in SPEEDS.items():
        if attrs[position] in speeds:
            pairs.append((opcode, speeds[attrs[position]]))
    return b"".join(struct.pack(">BI", *pair) for pair in pairs) + b"\0"


def parse(modes: bytes) -> list[tuple[int, int]]:
    """
    Return encoded terminal modes as pairs of opcode and value, in their order, up to the end:
    TTY_OP_END, an opcode of 160 or above, or a truncated pair.

    :param bytes modes: any bytes
    """
    pairs = []
    for at in range(0, len(modes) - 4, 5):
        opcode, value = struct.unpack_from(">BI", modes, at)
        if opcode == TTY_OP_END or opcode >= FIRST_UNKNOWN:
            break
        pairs.append((opcode, value))
    return pairs


def merge(attrs: list[Any], modes: bytes, no_character: int = 0) -> list[Any]:
    """
    Return terminal attributes with encoded modes applied to them. Opcodes that are unknown, or
    that this system does not have, are ignored (RFC 4254, section 8).

    :param list attrs: as returned by `termios.tcgetattr()`; not changed
    :param bytes modes: any bytes
    :param int no_character: this system's value for an unused special character
    """
    attrs = attrs[:CC] + [list(attrs[CC])]
    flags, characters, speeds = _flags(), _characters(), _speeds()
    for opcode, value in parse(modes):
        if opcode in characters:
            if value <= NO_CHARACTER:
                character = no_character if value == NO_CHARACTER else value
                attrs[CC][characters[opcode]] = bytes((character,))
        elif opcode in flags:
            position, bit = flags[opcode]
            attrs[position] = attrs[position] | bit if value else attrs[position] & ~bit
        elif opcode in SIZES and value:
            attrs[CFLAG] = attrs[CFLAG] & ~termios.CSIZE | getattr(termios, SIZES[opcode])
        elif opcode in SPEEDS and speeds.get(value):  # speed 0 would hang up the terminal
            attrs[SPEEDS[opcode]] = speeds[value]
    return attrs


def apply(fd: int, modes: bytes) -> None:
    """
    Set a terminal's modes at once. Attributes without a mode stay unchanged.

    :param int fd: descriptor of the terminal, either end of it
    :param bytes modes: encoded according to RFC 4254, section 8; any bytes are safe
    :raises termios.error: `fd` is not a terminal, or the terminal was closed
    """
    attrs = termios.tcgetattr(fd)
    merged = merge(attrs, modes, _no_character(fd))
    try:
        termios.tcsetattr(fd, termios.TCSANOW, merged)
    except termios.error as e:
        if e.args[0] != errno.EINVAL:
            raise
        # A Linux pty has eight bits and no parity. glibc reports EINVAL for other settings.
        merged[CFLAG] = attrs[CFLAG]
        termios.tcsetattr(fd, termios.TCSANOW, merged)
