"""Messages, mailboxes and old names, which are defined in other modules."""

from typing import Any

import mitogen.core
import mitogen.master
import mitogen.parent
import mitogen.select
from mitogen.core import ChannelError, Message, Receiver, Sender, TimeoutError


def mailboxes(router: mitogen.master.Router) -> list[Any]:
    receiver = Receiver(router, window=None)
    sender: Sender = receiver.to_sender()
    sender.send({"a": 1})
    try:
        first: Message = receiver.get(timeout=1.0)
        print(first.src_id + 1, first.is_dead, first.unpickle())
    except (ChannelError, TimeoutError) as error:
        print(error.args)
    values: list[Any] = [msg.unpickle() for msg in receiver]
    with mitogen.select.Select([receiver], oneshot=False) as select:
        event = select.get_event()
        print(event.source, event.data)
    return values + mitogen.select.Select.all([receiver])


def handle(router: mitogen.core.Router) -> int:
    def on_message(msg: Message) -> None:
        msg.reply(msg.unpickle())

    return router.add_handler(on_message, policy=mitogen.core.has_parent_authority)


def old_names(latch: mitogen.core.Latch, error: mitogen.core.LatchError) -> bytes:
    mitogen.core.set_cloexec(3)
    process: object = mitogen.parent.create_child
    print(mitogen.parent.ADD_ROUTE, mitogen.core.ADD_ROUTE, process, latch.size(), error)
    return Message.pickled(1).pack() + mitogen.core.b("text")


def encoded() -> Any:
    return mitogen.core.decode(mitogen.core.encode([1, "a", None], limit=100))
