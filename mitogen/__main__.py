"""Entry point of `python3 -m mitogen`."""

from __future__ import annotations

import sys

from mitogen.cli import main

if __name__ == "__main__":
    sys.exit(main())
