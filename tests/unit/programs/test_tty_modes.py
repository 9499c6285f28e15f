"""Terminal modes: encoding and decoding, on a real pty, and with arbitrary bytes."""

import errno
import os
import random
import struct
import termios
import tty

import pytest
from hypothesis import given, strategies as st

from mitogen.programs import tty_modes
from mitogen.programs.tty_modes import CC, CFLAG, IFLAG, ISPEED, LFLAG, OFLAG, OSPEED


@pytest.fixture
def pty():
    """Return (master, slave) with the kernel's initial modes."""
    pair = os.openpty()
    yield pair
    for fd in pair:
        os.close(fd)


def attributes():
    """Return the initial attributes of a Linux pty, in the form of tcgetattr()."""
    characters = b"\x03\x1c\x7f\x15\x04\0\x01\0\x11\x13\x1a\0\x12\x0f\x17\x16" + bytes(16)
    cc = [bytes((code,)) for code in characters]
    return [0o2400, 5, 0o277, 0o105073, termios.B38400, termios.B38400, cc]


def pairs(*each):
    return b"".join(struct.pack(">BI", *pair) for pair in each)


def test_encode():
    """Opcodes from RFC 4254, section 8: VINTR 1, VERASE 3, ICRNL 36, ECHO 53, OPOST 70, CS8 91."""
    found = dict(tty_modes.parse(tty_modes.encode(attributes())))
    assert {op: found[op] for op in (1, 3, 36, 35, 53, 56, 70, 71, 90, 91, 128, 129)} == {
        **{1: 3, 3: 127, 36: 1, 35: 0, 53: 1, 56: 0},
        **{70: 1, 71: 0, 90: 0, 91: 1, 128: 38400, 129: 38400},
    }
    assert found[6] == 255, "VEOL is unused"


def test_encode_ends_with_the_end_opcode():
    modes = tty_modes.encode(attributes())
    assert modes[-1] == tty_modes.TTY_OP_END
    assert len(modes) % 5 == 1


def test_all_opcodes_of_the_rfc_are_known():
    known = {*tty_modes.CHARACTERS, *tty_modes.SIZES, *tty_modes.SPEEDS}
    for names in tty_modes.FLAGS.values():
        known |= names.keys()
    rfc = {*range(1, 19), *range(30, 42), *range(50, 63), *range(70, 76), *range(90, 94), 128, 129}
    assert known == rfc | {42}  # IUTF8, RFC 8160


def test_copying_modes_between_terminals(pty):
    """Copy the modes of a terminal with unusual settings to a raw one."""
    master, slave = pty
    attrs = termios.tcgetattr(slave)
    attrs[IFLAG] = attrs[IFLAG] & ~termios.ICRNL | termios.IXANY | 0x4000
    attrs[LFLAG] |= termios.TOSTOP
    attrs[OFLAG] |= termios.OCRNL
    attrs[CC][termios.VINTR] = b"\x07"
    attrs[CC][termios.VSUSP] = b"\0"
    attrs[ISPEED] = attrs[OSPEED] = termios.B9600
    termios.tcsetattr(slave, termios.TCSANOW, attrs)
    expected = termios.tcgetattr(slave)
    assert expected[IFLAG] & 0x4000
    modes = tty_modes.encode(expected)
    tty.setraw(slave)
    tty_modes.apply(master, modes)
    found = termios.tcgetattr(slave)
    for cc in (found[CC], expected[CC]):
        cc[termios.VMIN] = cc[termios.VTIME] = None  # not sent
    assert found == expected


def test_encode_a_raw_terminal(pty):
    """tcgetattr() returns numbers for VMIN and VTIME then."""
    tty.setraw(pty[1])
    found = dict(tty_modes.parse(tty_modes.encode(termios.tcgetattr(pty[1]))))
    assert (found[51], found[53]) == (0, 0)


def test_merge_keeps_attributes_without_a_mode():
    attrs = attributes()
    assert tty_modes.merge(attrs, b"") == attrs
    assert tty_modes.merge(attrs, b"\0") == attrs


def test_merge_does_not_change_its_argument():
    attrs = attributes()
    tty_modes.merge(attrs, pairs((1, 7), (53, 0)))
    assert attrs == attributes()


@pytest.mark.parametrize(
    "pair, position, bit, expected",
    [
        ((53, 0), LFLAG, termios.ECHO, 0),
        ((53, 1), LFLAG, termios.ECHO, termios.ECHO),
        ((54, 77), LFLAG, termios.ECHOE, termios.ECHOE),  # any value but 0 is true
        ((90, 1), CFLAG, termios.CSIZE, termios.CS7),
        ((91, 1), CFLAG, termios.CSIZE, termios.CS8),
        ((91, 0), CFLAG, termios.CSIZE, termios.CS8),
        ((92, 1), CFLAG, termios.PARENB, termios.PARENB),
    ],
)
def test_one_flag(pair, position, bit, expected):
    assert tty_modes.merge(attributes(), pairs(pair))[position] & bit == expected


def test_both_character_sizes():
    """OpenSSH sends both CS7 and CS8 as 1 for eight bits, as the bits overlap."""
    modes = pairs((90, 1), (91, 1))
    assert tty_modes.merge(attributes(), modes)[CFLAG] & termios.CSIZE == termios.CS8


@pytest.mark.parametrize(
    "value, expected", [(0x18, b"\x18"), (0, b"\0"), (255, b"\xff"), (256, b"\x03")]
)
def test_one_character(value, expected):
    found = tty_modes.merge(attributes(), pairs((1, value)), no_character=0xFF)
    assert found[CC][termios.VINTR] == expected


def test_no_character_is_translated():
    found = tty_modes.merge(attributes(), pairs((1, 255)), no_character=0)
    assert found[CC][termios.VINTR] == b"\0"


@pytest.mark.parametrize("speed", [0, 1, 38401, 0xFFFFFFFF])
def test_invalid_speeds_are_ignored(speed):
    assert tty_modes.merge(attributes(), pairs((128, speed), (129, speed))) == attributes()


def test_a_speed():
    found = tty_modes.merge(attributes(), pairs((128, 9600), (129, 19200)))
    assert found[ISPEED : OSPEED + 1] == [termios.B9600, termios.B19200]


def test_an_unknown_speed_is_not_encoded():
    attrs = attributes()
    attrs[ISPEED] = 0o777777
    assert 128 not in dict(tty_modes.parse(tty_modes.encode(attrs)))


@pytest.mark.parametrize("opcode", [19, 29, 43, 127, 130, 159])
def test_unknown_opcodes_are_ignored(opcode):
    found = tty_modes.merge(attributes(), pairs((opcode, 1), (1, 7)))
    assert found[CC][termios.VINTR] == b"\x07"


@pytest.mark.parametrize("opcode", [0, 160, 255])
def test_opcodes_that_end_the_modes(opcode):
    assert tty_modes.parse(pairs((1, 7), (opcode, 1), (2, 7))) == [(1, 7)]


def test_truncated_modes():
    modes = tty_modes.encode(attributes())
    whole = tty_modes.parse(modes)
    for length in range(len(modes)):
        assert tty_modes.parse(modes[:length]) == whole[: length // 5]


@given(st.binary(max_size=400))
def test_any_bytes_can_be_merged(modes):
    found = tty_modes.merge(attributes(), modes)
    assert [type(each) for each in found] == [int] * 6 + [list]
    assert all(len(each) == 1 for each in found[CC])


def test_any_bytes_can_be_applied(pty):
    rng = random.Random(4254)
    for _ in range(300):
        modes = pairs(
            *((rng.randrange(1, 160), rng.choice([0, 1, 255, 1 << 31])) for _ in range(20))
        )
        tty_modes.apply(pty[0], modes)
    assert termios.tcgetattr(pty[1])


def test_a_pty_without_seven_bits_and_parity(pty):
    """The other modes are applied nevertheless."""
    tty_modes.apply(pty[0], pairs((90, 1), (92, 1), (53, 0), (128, 9600), (129, 9600)))
    found = termios.tcgetattr(pty[1])
    assert not found[LFLAG] & termios.ECHO
    assert found[CFLAG] & termios.CSIZE == termios.CS8
    assert found[OSPEED] == termios.B9600


def test_a_closed_terminal(pty, monkeypatch):
    def tcsetattr(*_args):
        raise termios.error(errno.EIO, "Input/output error")

    monkeypatch.setattr(termios, "tcsetattr", tcsetattr)
    with pytest.raises(termios.error, match="Input/output"):
        tty_modes.apply(pty[0], b"")


def test_a_file_is_not_a_terminal(tmp_path):
    with open(tmp_path / "file", "wb") as fp, pytest.raises(termios.error):
        tty_modes.apply(fp.fileno(), b"")


def test_a_system_with_fewer_modes(monkeypatch):
    """Modes that termios does not define are neither encoded nor applied."""
    monkeypatch.delattr(termios, "IUCLC")
    monkeypatch.delattr(termios, "VWERASE")
    found = dict(tty_modes.parse(tty_modes.encode(attributes())))
    assert not {37, 13} & found.keys()
    assert tty_modes.merge(attributes(), pairs((37, 1), (13, 1))) == attributes()


def test_no_character_without_fpathconf(monkeypatch):

    def unknown(fd, name):
        raise ValueError(name)

    monkeypatch.setattr(os, "fpathconf", unknown)
    assert tty_modes._no_character(0) == 0
