"""Functions that have a context connect to others."""

import mitogen.core


@mitogen.core.takes_router
def connect_some(count, router):
    """Return how many of *count* were made."""
    return sum(1 for result in router.connect_many(["local"] * count) if result.context)
