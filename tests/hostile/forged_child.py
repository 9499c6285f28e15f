"""The program of a forged child: `python forged_child.py SOCKET -c FIRST_STAGE NAME`.

It takes part in the handshake like a first stage. Then it passes its pipe to the test, which is at
the other end of SOCKET, and sleeps until the parent or the test closes its end.
"""

import os
import select
import socket
import sys
import zlib


def main():
    os.write(1, b"MITO:HELLO %s %s\n" % (b"3.9.0", sys.executable.encode()))
    opening = b""
    while len(opening) < 14:
        opening += os.read(0, 14 - len(opening)) or sys.exit(1)
    stream = zlib.decompressobj()
    while not stream.eof:
        stream.decompress(os.read(0, 65536) or sys.exit(1))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
        # Passed before READY, so that the test has the pipe once the context exists.
        right = socket.SOL_SOCKET, socket.SCM_RIGHTS, (0).to_bytes(4, sys.byteorder)
        sock.sendmsg([b"!"], [right])
        sock.recv(1)
        os.write(1, b"MITO:READY\n")
        poll = select.poll()
        poll.register(0, 0)
        poll.register(sock, 0)
        poll.poll()


if __name__ == "__main__":
    main()
