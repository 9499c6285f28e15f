"""Uses of messages and mailboxes that a type checker must refuse."""

import mitogen.core
import mitogen.master
import mitogen.select


def mailboxes(router: mitogen.master.Router) -> None:
    mitogen.core.Receiver()  # E: call-arg
    receiver = mitogen.core.Receiver(router, windw=None)  # E: call-arg
    receiver.get(timeout="1")  # E: arg-type
    receiver.get().unpickel()  # E: attr-defined
    number: int = receiver.to_sender()  # E: assignment
    mitogen.core.Receivr(router)  # E: attr-defined
    mitogen.select.Select([router])  # E: list-item
    router.add_handler("function")  # E: arg-type
    mitogen.core.encode(1, limit="1")  # E: arg-type
    mitogen.core.Message(dst_id=1).dst_id.upper()  # E: attr-defined
    print(number)
