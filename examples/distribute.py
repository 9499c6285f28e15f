"""
Distribute one large file to several children at once.

The program registers the file with a FileService, and every child fetches it from there, one
window at a time: neither side ever holds the whole file in memory. Only registered files can be
fetched.

Run it:

    python3 examples/distribute.py
    python3 examples/distribute.py --children 5 --size 50
"""

import argparse
import hashlib
import os
import tempfile

import mitogen
import mitogen.core
import mitogen.select
import mitogen.service

MEGABYTE = 1024 * 1024


def make_file(fp, megabytes):
    """Fill a file with data that does not compress; return its digest."""
    digest = hashlib.sha256()
    for _ in range(megabytes):
        block = os.urandom(MEGABYTE)
        digest.update(block)
        fp.write(block)
    fp.flush()
    return digest.hexdigest()


class Digest:
    """A stand-in for a file open for writing: a transfer only needs write()."""

    def __init__(self):
        self.sha256 = hashlib.sha256()

    def write(self, data):
        self.sha256.update(data)


@mitogen.core.takes_econtext
def fetch(path, econtext):
    """Child: fetch the file; return its size, its mode, and the digest of the received data."""
    digest = Digest()
    ok, metadata = mitogen.service.FileService.get(econtext.parent, path, digest)
    if not ok:
        raise OSError("%s was truncated or changed while it was fetched" % path)
    return metadata["size"], metadata["mode"] & 0o777, digest.sha256.hexdigest()


def distribute(router, path, children):
    """Make `children` new contexts fetch a file at the same time; return their results."""
    service = mitogen.service.FileService(router)
    service.register(path)
    pool = mitogen.service.Pool(router, services=[service], size=1)
    try:
        contexts = [router.local(name="child%d" % index) for index in range(children)]
        return mitogen.select.Select.all([context.call_async(fetch, path) for context in contexts])
    finally:
        pool.stop()


@mitogen.main()
def main(router):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--children", type=int, default=3, help="number of children (default 3)")
    parser.add_argument("--size", type=int, default=5, help="size of the file in MiB (default 5)")
    args = parser.parse_args()
    if args.children < 1 or args.size < 0:
        parser.error("--children must be 1 or more, --size 0 or more")

    with tempfile.NamedTemporaryFile(prefix="mitogen-example-") as original:
        wanted = make_file(original, args.size)
        copies = distribute(router, original.name, args.children)

    for size, mode, digest in copies:
        same = "the same" if digest == wanted else "DIFFERENT"
        print("a copy of %d bytes, mode %o, content %s" % (size, mode, same))
