"""Functions for tests/integration/test_containers.py to call in other contexts."""

import mitogen.core
from tests.integration.far import work


@mitogen.core.takes_router
def follow(spec, router):
    """Connect from here to *spec*; return the result of a call there, and the context's name."""
    context = router.from_spec(spec)
    try:
        return context.call(work.add, 1)[0], context.name
    finally:
        (context.via or context).shutdown(wait=True)
