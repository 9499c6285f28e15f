"""Keys of maps and sets: no sender chooses what a comparison or a table costs.

Costs are counted, not timed: equal hashes as calls of `__eq__`, probes by a model of the table.
"""

import decimal
import fractions
import itertools
import random
import sys

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mitogen import core
from mitogen.core import value_types

MODULUS = sys.hash_info.modulus


def encode(keys, as_set):
    """Return the encoding of a map or set with these keys, though no program would send it."""
    text = b"".join(core.encode(key) + (b"" if as_set else b"\0") for key in keys)
    tag = core.head(0xC0, 258) if as_set else b""
    return tag + core.head(0x80 if as_set else 0xA0, len(keys)) + text


def refused(keys, as_set):
    try:
        core.decode(encode(keys, as_set))
    except core.StreamError as error:
        return str(error)
    return ""


def with_hash_of(number, digits):
    """Return an int of so many bits whose hash is that of `number`."""
    return number + MODULUS * ((1 << digits) // MODULUS)


EXPENSIVE = {
    "an int and a Decimal of equal hash": [with_hash_of(7, 8 * 200000), decimal.Decimal(7)],
    "an int of 200 KB": [1 << 1600000],
    "a Decimal of many digits": [decimal.Decimal("7." + "0" * 100000), 7],
    "a long Fraction": [fractions.Fraction(1 << 8000, 3)],
    "a tuple of many parts": [tuple(range(2000))],
    "nested tuples of many parts": [tuple((i, i) for i in range(600))],
    "a tuple of long text": [("x" * 100000, 1)],
    "a frozenset of many parts": [frozenset(range(2000))],
    "an int in a tuple": [(1, (2, 1 << 100000))],
}


@pytest.mark.parametrize("as_set", [False, True])
@pytest.mark.parametrize("name", EXPENSIVE)
def test_keys_that_are_costly_to_compare_are_refused(name, as_set):
    assert "key" in refused(EXPENSIVE[name], as_set)


@pytest.mark.parametrize("as_set", [False, True])
def test_tuples_of_equal_hash_are_refused_sooner_than_ints(as_set):
    keys = [tuple(range(100)) + (i * MODULUS,) for i in range(300)]
    assert "equal hashes" in refused(keys, as_set)
    assert not refused([key[-1] for key in keys], as_set)


def one_sequence(count, bits):
    """Return ints of different hashes that use one table of 2 ** bits entries in one order."""
    mask = (1 << bits) - 1
    rng = random.Random(5)
    found = []
    # Half of the keys occupy the lower part of the table. All probes of the others but the last
    # are there; from the last on their probes are the same.
    low = count // 2
    while len(found) < count - low:
        number = rng.randrange(low)
        for shift in range(bits, 61 - 10, 5):
            fits = []
            for window in range(32):
                tried = number | window << shift
                if after(tried, (shift - bits) // 5 + 1, mask) < low:
                    fits.append(tried)
            if not fits:
                break
            number = rng.choice(fits)
        else:
            for last in range(1024):
                tried = number | last << 51
                if after(tried, 13, mask) == low + 1:
                    found.append(tried)
                    break
    return list(range(low)) + found


def after(number, steps, mask):
    at, perturb = number & mask, number
    for _ in range(steps):
        perturb >>= 5
        at = (at * 5 + perturb + 1) & mask
    return at


def test_keys_of_one_probe_sequence_are_refused(monkeypatch):
    # Fewer keys than an attack has: to find one takes milliseconds.
    monkeypatch.setattr(value_types, "MAX_PROBES", 5000)
    monkeypatch.setattr(value_types, "PROBES_PER_KEY", 5)
    keys = one_sequence(600, 10)
    assert len(set(map(hash, keys))) == 600 and probes(keys) > 15000
    assert "made to collide" in refused(keys, False)
    assert not refused(range(600), False)


HONEST = {
    "a range": range(5000),
    "negative numbers": range(-5000, 0),
    "addresses": [n << 12 for n in range(5000)],
    "large addresses": [n << 44 for n in range(5000)],
    "powers of two": [2**n for n in range(500)],
    "floats": [n / 8 for n in range(5000)],
    "prices": [decimal.Decimal(n) / 100 for n in range(5000)],
    "points": list(itertools.product(range(-30, 30), repeat=2)),
    "points in space": list(itertools.product(range(-9, 9), repeat=3)),
    "texts": ["k%d" % n for n in range(5000)],
    "texts and numbers": [*("k%d" % n for n in range(3000)), *range(3000)],
    "random numbers": [random.Random(1).getrandbits(64) for _ in range(5000)],
    "a long text": ["x" * 100000],
    "sets": [frozenset({n, n + 1}) for n in range(3000)],
}


@pytest.mark.parametrize("as_set", [False, True])
@pytest.mark.parametrize("name", HONEST)
def test_keys_of_honest_programs_are_accepted(name, as_set):
    keys = list(HONEST[name])
    value = set(keys) if as_set else dict.fromkeys(keys, 0)
    assert core.decode(core.encode(value)) == value


def test_maps_of_text_and_small_ints_need_no_other_module(monkeypatch):
    monkeypatch.setattr(value_types, "check_keys", lambda *_: pytest.fail("a call would import it"))
    value = {"a": 1, "b": {1: 2, -1: 3, 2**63: 4}, "c": {str(n): n for n in range(2000)}}
    assert core.decode(core.encode(value)) == value


# ---- a search for counter-examples

SMALL = st.sampled_from([0, 1, 2, -1, 7, 2**61, 3**40])
NUMBERS = st.builds(
    lambda kind, base, step, bits: kind(base + step * MODULUS * (1 << bits)),
    st.sampled_from([int, decimal.Decimal, fractions.Fraction, float, complex]),
    SMALL,
    st.integers(0, 3000),
    st.sampled_from([0, 1, 60, 600]),
)
KEYS = st.recursive(
    NUMBERS,
    lambda part: st.one_of(st.lists(part, max_size=3).map(tuple), st.frozensets(part, max_size=3)),
    max_leaves=4,
)
# One key is varied, so that there are many like it.
FAMILIES = st.builds(
    lambda key, step, count, wrap: [wrap(key, n * step) for n in range(count)],
    KEYS,
    st.sampled_from([MODULUS, 1 << 61, 1 << 20, 1 << 17, 1 << 44, 1, MODULUS * (1 << 64)]),
    st.integers(1, 1200),
    st.sampled_from(
        [
            lambda key, n: n,
            lambda key, n: (key, n),
            lambda key, n: (n, key, n),
            lambda key, n: decimal.Decimal(n),
            lambda key, n: frozenset({key, n}),
            lambda key, n: ((key,) * 50, n),
        ]
    ),
)


class Counted:
    """A key that counts comparisons, weighed by the length of what is compared."""

    count = 0

    def __init__(self, key):
        self.key = key
        self.number = hash(key)
        self.size = len(core.encode(key))

    def __hash__(self):
        return self.number

    def __eq__(self, other):
        Counted.count += self.size
        return self.key == other.key


def probes(numbers):
    """Return how many used entries a dict meets that is built with these hashes."""
    size, met, kept = 8, 0, []
    table = [False] * size

    def add(number):
        nonlocal met
        perturb = number & (2**64 - 1)
        at = perturb & (size - 1)
        while table[at]:
            met += 1
            perturb >>= 5
            at = (at * 5 + perturb + 1) & (size - 1)
        table[at] = True

    for number in numbers:
        if len(kept) >= size * 2 // 3:
            while size <= 3 * len(kept):
                size *= 2
            table = [False] * size
            for old in kept:
                add(old)
        add(number)
        kept.append(number)
    return met


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(FAMILIES, min_size=1, max_size=3), st.booleans())
def test_accepted_keys_take_work_in_proportion(families, as_set):
    keys = list(dict.fromkeys(key for family in families for key in family))
    data = encode(keys, as_set)
    try:
        core.decode(data)
    except core.StreamError:
        return
    Counted.count = 0
    dict.fromkeys(map(Counted, keys))
    assert Counted.count <= 20 * value_types.MAX_PROBES + 100 * len(data)
    assert probes(map(hash, keys)) <= 2 * value_types.MAX_PROBES + 100 * len(data)
