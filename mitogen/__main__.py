"""`python3 -m mitogen`."""

import sys

from mitogen.cli import main

if __name__ == "__main__":
    sys.exit(main())
