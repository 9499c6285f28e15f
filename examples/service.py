"""
Offer a service that children call: each method says who may call it, and with which arguments.

The service runs in this program, on the threads of a Pool. Two children report to it what they
have, without waiting for answers, and ask it for the total. What a policy or an argument
specification does not allow never reaches the method: the caller gets a CallError.

Run it:

    python3 examples/service.py
"""

import argparse

import mitogen
import mitogen.core
import mitogen.service


class Inventory(mitogen.service.Service):
    """Knows how many disks there are. It needs no lock, as its Pool has one thread."""

    def __init__(self, router):
        super().__init__(router)
        self.disks = {}

    @mitogen.service.expose(policy=mitogen.service.AllowAny())
    @mitogen.service.arg_spec({"host": str, "disks": int})
    @mitogen.service.no_reply()
    def report(self, host, disks):
        """Note what a host has; whoever calls gets no answer."""
        self.disks[host] = disks

    @mitogen.service.expose(policy=mitogen.service.AllowAny())
    def total(self):
        """Return how many disks have been reported."""
        return sum(self.disks.values())

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def forget(self):
        """Forget everything: a method for the contexts above the one that the service is in."""
        self.disks.clear()


@mitogen.core.takes_econtext
def take_stock(host, disks, econtext):
    """Child: report to the service, and ask it for the total."""
    inventory = econtext.parent
    # No answer will come, so there is nothing to wait for. Calls are served in their order.
    inventory.call_service_async(Inventory, "report", host=host, disks=disks).close()
    return inventory.call_service(Inventory, "total")


@mitogen.core.takes_econtext
def is_refused(method, arguments, econtext):
    """Child: return whether the service refuses a call."""
    try:
        econtext.parent.call_service(Inventory, method, **arguments)
    except mitogen.core.CallError:
        return True
    return False


@mitogen.main()
def main(router):
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()

    pool = mitogen.service.Pool(router, services=[Inventory(router)], size=1)
    try:
        alpha = router.local(name="alpha")
        beta = router.local(name="beta")
        print("alpha has 4 disks, all together have", alpha.call(take_stock, "alpha", 4))
        print("beta has 8 disks, all together have", beta.call(take_stock, "beta", 8))

        wrong = {"host": "alpha", "disks": "many"}
        print("a child may report nonsense:", not alpha.call(is_refused, "report", wrong))
        print("a child may forget all:", not alpha.call(is_refused, "forget", {}))

        # A child can have a service too: it is made there when a parent first calls it.
        alpha.call_service(Inventory, "forget")
        print("an inventory of alpha's own has", alpha.call_service(Inventory, "total"))
    finally:
        pool.stop()
