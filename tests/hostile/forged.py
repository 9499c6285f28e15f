"""The forged child as a test uses it: its pipe to the parent, frames made by hand, and no rules."""

import os
import select
import socket
import sys
import tempfile
import threading

from mitogen import core

HERE = os.path.dirname(os.path.abspath(__file__))
#: Seconds that a test waits for an event that should be immediate; only a failure takes this long.
SOON = 30.0


class Forged:
    """
    A child of `router` that does only what the test does with it.

    :param router: the parent's router
    :param via: the context that is the parent instead
    """

    def __init__(self, router, via=None):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "s")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(1)
                listener.settimeout(SOON)
                taker = threading.Thread(target=self._take, args=(listener,))
                taker.start()
                program = [sys.executable, os.path.join(HERE, "forged_child.py"), path]
                try:
                    self.context = router.local(python_path=program, via=via)
                finally:
                    taker.join()
        self.id = self.context.context_id
        self.parent_id = via.context_id if via else 0
        self.stream = router.routes.get(self.id)
        self.framer = core.Framer()
        #: Frames that were received and not yet returned.
        self.frames = []

    def _take(self, listener):
        self.control, _ = listener.accept()
        _, rights, _, _ = self.control.recvmsg(1, socket.CMSG_SPACE(4))
        self.sock = socket.socket(fileno=int.from_bytes(rights[0][2], sys.byteorder))
        self.sock.setblocking(False)
        self.control.send(b"!")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the child."""
        self.sock.close()
        self.control.close()

    def frame(self, handle, data=b"", dst=None, src=None, auth=None, reply_to=0, flags=0, number=0):
        """Return a frame as bytes; fields that are not given are those of an honest child."""
        msg = core.Message(handle=handle, reply_to=reply_to, number=number)
        msg.dst_id = self.parent_id if dst is None else dst
        msg.src_id = self.id if src is None else src
        msg.auth_id = self.id if auth is None else auth
        return msg.header(len(data), flags) + data

    def send(self, handle, data=b"", **kwargs):
        """Send a message, in frames if it is long. Fail if the parent does not read for SOON."""
        if not isinstance(data, bytes):
            data = core.encode(data)
        size = core.FRAME_SIZE
        if len(data) <= size:
            return self.write(self.frame(handle, data, **kwargs))
        flags = kwargs.pop("flags", 0)
        kwargs.setdefault("number", 1)
        for at in range(0, len(data), size):
            more = core.MORE if at + size < len(data) else 0
            cont = core.CONT if at else 0
            part = data[at : at + size]
            self.write(self.frame(handle, part, flags=flags | more | cont, **kwargs))

    def write(self, data):
        """Write raw bytes."""
        view = memoryview(data)
        while view:
            if not select.select([], [self.sock], [], SOON)[1]:
                raise AssertionError("the parent has stopped reading")
            view = view[self.sock.send(view) :]

    def write_some(self, data):
        """Write raw bytes as far as the parent reads now; return their number."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self, wanted, timeout=SOON):
        """Return the first frame received for which `wanted(frame)` is true; None at the end."""
        while True:
            for at, frame in enumerate(self.frames):
                if wanted(frame):
                    return self.frames.pop(at)
            if not select.select([self.sock], [], [], timeout)[0]:
                raise AssertionError("nothing came from the parent")
            data = self.sock.recv(1 << 20)
            if not data:
                return None
            self.frames += self.framer.feed(data)

    def answer_to(self, handle, data=b"", **kwargs):
        """Send a message, and return the frame that answers it."""
        reply_to = 2**31 + 5
        self.send(handle, data, reply_to=reply_to, **kwargs)
        return self.receive(lambda frame: frame.handle == reply_to)

    def ping(self):
        """Return once the parent's broker has handled all that was sent before."""
        assert self.answer_to(core.PING, flags=core.RAW) is not None
