"""Calls that a type checker must refuse: each line ends with the code of its error."""

import mitogen.core
import mitogen.master
import mitogen.parent
import mitogen.utils


def add(one: int, two: int = 0) -> int:
    return one + two


@mitogen.core.takes_econtext
def whoami(prefix: str, econtext: mitogen.core.ExternalContext) -> str:
    return prefix + str(econtext.context.name)


def use(context: mitogen.parent.Context, same: mitogen.core.Context) -> None:
    context.call(add, "one")  # E: arg-type
    context.call(add, 1, 2, 3)  # E: call-arg
    context.call(add)  # E: call-arg
    context.call(add, 1, three=3)  # E: call-arg
    context.call("add", 1)  # E: arg-type
    text: str = context.call(add, 1)  # E: assignment
    same.call(add, "one")  # E: arg-type
    context.call_async(add, "one")  # E: arg-type
    context.call_no_reply(add, None)  # E: arg-type
    context.call_async(add, 1).unpickle()  # E: attr-defined
    context.submit(add, b"1")  # E: arg-type
    number: int = context.call(whoami, "I am ")  # E: assignment
    context.submit(add, 1).result().upper()  # E: attr-defined
    context.cal(add, 1)  # E: attr-defined
    context.shutdown(wait="yes")  # E: call-overload
    context.shutdown(wait=True).get()  # E: attr-defined
    print(text, number)


def chain(context: mitogen.parent.Context) -> None:
    mitogen.parent.CallChain(context, timeout="3")  # E: arg-type
    mitogen.parent.CallChain(context).call(add, [1])  # E: arg-type


def program(router: mitogen.master.Router, count: int) -> int:
    return count


mitogen.utils.run_with_router(program, "3")  # E: arg-type
mitogen.utils.run_with_router(add, 3)  # E: arg-type
