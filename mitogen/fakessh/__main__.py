"""`python3 -m mitogen.fakessh`."""

from __future__ import annotations

import sys

from mitogen.fakessh.runner import main

if __name__ == "__main__":
    sys.exit(main())
