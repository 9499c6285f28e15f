"""mitogen.select: waiting for any of several receivers."""

import pytest

from mitogen import core
from mitogen.core import Message
from mitogen.core.mailbox import Latch, Receiver
from mitogen.select import Error, Event, Select
from tests.unit import nodes


@pytest.fixture
def master(net):
    return net.line(1)[0]


def receivers(master, count):
    return [Receiver(master.router) for _ in range(count)]


def put(receiver, *values):
    """Deliver values as messages, as the broker does."""
    for value in values:
        receiver.on_message(Message.pickled(value, src_id=9, handle=receiver.handle))


def values(messages):
    return [msg.unpickle() for msg in messages]


def test_get_returns_the_first_available_message(master):
    one, two = receivers(master, 2)
    select = Select([one, two])
    put(two, "b")
    msg = select.get()
    assert msg.unpickle() == "b" and msg.receiver is two
    put(one, "a")
    assert select.get().receiver is one


def test_earlier_messages_are_returned(master):
    (one,) = receivers(master, 1)
    put(one, 1, 2)
    select = Select([one], oneshot=False)
    assert select.size() == 2 and not select.empty()
    assert values([select.get(), select.get()]) == [1, 2]
    assert select.empty()


def test_oneshot_removes_each_member(master):
    all_of_them = receivers(master, 3)
    select = Select(all_of_them)
    for number, receiver in enumerate(all_of_them):
        put(receiver, number)
    assert sorted(values(select)) == [0, 1, 2]
    assert not select
    with pytest.raises(Error, match="Select instance is empty"):
        select.get()
    assert all(receiver.notify is None for receiver in all_of_them)


def test_oneshot_leaves_second_messages(master):
    one, two = receivers(master, 2)
    put(one, "first", "second")
    select = Select([one, two])
    assert select.get().unpickle() == "first"
    assert one.get().unpickle() == "second"
    put(two, "b")
    assert select.get().unpickle() == "b"


def test_without_oneshot_receivers_stay(master):
    one, two = receivers(master, 2)
    select = Select([one, two], oneshot=False)
    put(one, 1, 2)
    put(two, 3)
    assert values(select.get() for _ in range(3)) == [1, 2, 3]
    assert bool(select)
    select.remove(one)
    select.remove(two)
    assert not select


def test_events_name_their_source(master):
    one, two = receivers(master, 2)
    latch = Latch()
    select = Select([one, two, latch])
    put(two, "b")
    latch.put("item")
    put(one, "a")
    found = {event.source: event.data for event in select.iter_events()}
    assert found[latch] == "item"
    assert found[one].unpickle() == "a" and found[two].unpickle() == "b"
    assert Event(1, 2).data == 2 and Event().source is None


def test_all(master):
    both = receivers(master, 2)
    put(both[1], "b")
    put(both[0], "a")
    assert sorted(Select.all(both)) == ["a", "b"]


@pytest.mark.parametrize("oneshot", [True, False])
@pytest.mark.parametrize("nested", [False, True])
def test_the_end_of_a_sender_is_raised_and_the_others_go_on(master, oneshot, nested):
    one, other = receivers(master, 2)
    select = Select([one, other], oneshot=oneshot)
    outer = Select([select], oneshot=oneshot) if nested else select
    one.on_message(Message.dead("gone"))
    with pytest.raises(core.ChannelError, match="gone"):
        outer.get()
    assert (one in select._receivers) is not oneshot
    put(other, "x")
    assert outer.get().unpickle() == "x"
    assert bool(outer) is not oneshot


def test_get_waits_for_the_timeout(net, master):
    (one,) = receivers(master, 1)
    select = Select([one])
    with pytest.raises(core.TimeoutError):
        select.get(5)
    assert net.time == 1005
    with pytest.raises(core.TimeoutError):
        select.get(block=False)
    master.broker.after(2, lambda: put(one, "x"))
    assert select.get(5).unpickle() == "x" and net.time == 1007


def test_a_message_taken_by_another_thread_is_not_counted(net, master):
    (one,) = receivers(master, 1)
    select = Select([one])
    put(one, "taken")
    one.get()
    with pytest.raises(core.TimeoutError):
        select.get(3)
    assert net.time == 1003
    put(one, "next")
    assert select.get().unpickle() == "next"


# ---- nested


def test_nested(master):
    one, two, three = receivers(master, 3)
    inner = Select([one, two])
    outer = Select([inner, three])
    for number, receiver in enumerate((two, three, one)):
        put(receiver, number)
    got = [(event.source, event.data.unpickle()) for event in outer.iter_events()]
    assert sorted(got, key=lambda pair: pair[1]) == [(two, 0), (three, 1), (one, 2)]
    assert not outer and not inner


def test_nested_deep_and_filled_before(master):
    (one,) = receivers(master, 1)
    put(one, "x")
    select = Select([Select([Select([one])])])
    assert select.size() == 1
    assert select.get().unpickle() == "x"
    assert not select


def test_nested_not_oneshot(master):
    (one,) = receivers(master, 1)
    outer = Select([Select([one], oneshot=False)], oneshot=False)
    put(one, 1, 2)
    assert values([outer.get(), outer.get()]) == [1, 2] and outer


# ---- wrong use


def test_a_receiver_has_one_owner(master):
    (one,) = receivers(master, 1)
    first = Select([one])
    with pytest.raises(Error, match="already owned by another Select"):
        Select([one])
    first.remove(one)
    assert Select([one])
    with pytest.raises(Error, match="not a member"):
        first.remove(one)


def test_cycles_are_refused():
    one, two, three = Select(), Select(), Select()
    with pytest.raises(Error, match="cycle"):
        one.add(one)
    two.add(one)
    three.add(two)
    with pytest.raises(Error, match="cycle"):
        one.add(three)
    assert not one


def test_close_releases_receivers_and_ends_a_get(net, master):
    (one,) = receivers(master, 1)
    with Select([one]) as select:
        put(one, "x")
    assert not select and one.notify is None and one.size() == 1
    select = Select([one], oneshot=False)
    select.get()
    master.broker.after(1, select.close)
    with pytest.raises(Error, match="closed during get"):
        select.get()


def test_an_empty_select_raises():
    select = Select()
    assert not select and select.empty() and list(select) == [] and list(select.iter_events()) == []
    with pytest.raises(Error, match="empty"):
        select.get(1)


def test_get_without_a_timeout_waits_forever(master):
    with pytest.raises(nodes.Deadlock):
        Select(receivers(master, 1)).get()


def test_errors_are_of_the_root_class():
    assert issubclass(Error, core.Error)
