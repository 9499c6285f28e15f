"""A stand-in for ssh that runs the remote command here, and counts the bytes both ways.

    tee.py COUNTS [ssh options] bench-host COMMAND...

COUNTS is a file of three native 64-bit numbers: the length of the command line as sshd would get
it, bytes to the command, bytes from it. They are written before the bytes are passed on, so a
reader that has an answer finds a count that includes it.
"""

import mmap
import os
import select
import struct
import subprocess
import sys

HOST = "bench-host"


def relay(counts, process):
    """Copy both ways until the command closes its output."""
    total = [0, 0]
    pairs = {0: (process.stdin.fileno(), 0), process.stdout.fileno(): (1, 1)}
    while process.stdout.fileno() in pairs:
        for source in select.select(list(pairs), [], [])[0]:
            sink, way = pairs[source]
            data = os.read(source, 131072)
            if not data:
                del pairs[source]
                if source == 0:
                    process.stdin.close()
                continue
            total[way] += len(data)
            struct.pack_into("2Q", counts, 8, *total)
            try:
                while data:
                    data = data[os.write(sink, data) :]
            except BrokenPipeError:
                return


def main():
    words = sys.argv[2:]
    command = " ".join(words[words.index(HOST) + 1 :])
    with open(sys.argv[1], "r+b") as fp:
        counts = mmap.mmap(fp.fileno(), 24)
    struct.pack_into("Q", counts, 0, len(command.encode()))
    process = subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    relay(counts, process)
    process.terminate()
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
