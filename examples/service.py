"""
Offer a service that children call; each method declares its permitted callers and arguments.

The service runs in this program, on the threads of a Pool. Two children report their disks to it,
without waiting for answers, and ask it for the total. A call that a policy or an argument
specification forbids never reaches the method: the caller gets a CallError.

Run it:

    python3 examples/service.py
"""

import argparse

import mitogen
import mitogen.core
import mitogen.service


class Inventory(mitogen.service.Service):
    """Number of disks by host. It needs no lock, because its Pool has a single thread."""

    def __init__(self, router):
        super().__init__(router)
        self.disks = {}

    @mitogen.service.expose(policy=mitogen.service.AllowAny())
    @mitogen.service.arg_spec({"host": str, "disks": int})
    @mitogen.service.no_reply()
    def report(self, host, disks):
        """Record the number of disks of a host; the caller gets no answer."""
        self.disks[host] = disks

    @mitogen.service.expose(policy=mitogen.service.AllowAny())
    def total(self):
        """Return the number of disks reported so far."""
        return sum(self.disks.values())

    @mitogen.service.expose(policy=mitogen.service.AllowParents())
    def forget(self):
        """Forget everything. Only ancestors of the service's context may call this method."""
        self.disks.clear()


@mitogen.core.takes_econtext
def take_stock(host, disks, econtext):
    """Child: report to the service, then ask it for the total."""
    inventory = econtext.parent
    # This method sends no answer, so don't wait for one. Calls are served in order.
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

        # A child can have a service too: it is created there when a parent first calls it.
        alpha.call_service(Inventory, "forget")
        print("an inventory of alpha's own has", alpha.call_service(Inventory, "total"))
    finally:
        pool.stop()
