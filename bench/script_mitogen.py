"""The shortest program: connect, one call, end. For either mitogen: script_mitogen.py LIBRARY"""

import os
import sys

sys.path.insert(0, sys.argv[1])

import mitogen.utils  # noqa: E402


def main(router):
    """Make one child and ask for its pid."""
    assert router.local().call(os.getpid) != os.getpid()


if __name__ == "__main__":
    mitogen.utils.run_with_router(main)
