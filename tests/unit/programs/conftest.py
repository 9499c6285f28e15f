"""No broker thread decodes a value that a peer may have made large (rule 3 of mitogen.core)."""

import weakref

import pytest

from mitogen import core
from mitogen.core import codec
from tests.unit import nodes

#: Bytes that a broker thread may decode at a time: control messages of the protocol itself.
MOST = 4096


@pytest.fixture(autouse=True)
def large_values_decoded_by_brokers(monkeypatch):
    """Yield the list of large values that a broker thread has decoded, which must stay empty."""
    brokers = weakref.WeakSet()
    found = []
    for cls in (core.Broker, nodes.Broker):
        monkeypatch.setattr(cls, "__init__", noting(cls.__init__, brokers))
    decode_next = codec.decode_next

    def checked(data, position=0, router=None):
        if len(data) - position > MOST and any(broker.on_thread() for broker in list(brokers)):
            found.append(len(data))
        return decode_next(data, position, router)

    for module in (codec, core):
        monkeypatch.setattr(module, "decode_next", checked)
    yield found
    assert not found, "decoded on a broker thread: %r bytes" % found


def noting(init, brokers):
    def __init__(self, *args, **kwargs):
        brokers.add(self)
        init(self, *args, **kwargs)

    return __init__
