"""`python3 -m mitogen.sftp`."""

from __future__ import annotations

import sys

from mitogen.sftp.server import main

if __name__ == "__main__":
    sys.exit(main())
