"""Functions that make a context connect to others."""

import mitogen.core


@mitogen.core.takes_router
def connect_some(count, router):
    """Connect to *count* local contexts; return the number of successes."""
    return sum(1 for result in router.connect_many(["local"] * count) if result.context)
