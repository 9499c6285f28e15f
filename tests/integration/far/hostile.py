"""Actions of a hostile child, which writes frames of its own making to its parent."""

import os
import select
import struct

import mitogen.core

#: magic, flags, dst_id, src_id, auth_id, handle, reply_to, length; see docs/design/wire.rst.
HEADER = struct.Struct(">HBLLLLLL")
MAGIC = mitogen.core.MAGIC
RAW = mitogen.core.RAW


def frame(handle, data=b"", dst=0, src=None, auth=None, reply_to=0, flags=0, length=None):
    """Return a frame; fields not given are those of an honest sender.

    *src* and *auth* are context ids, None for this context's own.
    """
    size = len(data) if length is None else length
    return MAGIC, flags, dst, src, auth, handle, reply_to, size, data


@mitogen.core.takes_econtext
def write(frames, econtext):
    """Write *frames*, either results of frame() or raw bytes, to the parent.

    The stream's queued data is written first, so that the hostile bytes begin a frame.
    """
    stream = econtext.stream
    me = econtext.router.node.context_id
    text = b""
    for each in frames:
        if isinstance(each, bytes):
            text += each
            continue
        magic, flags, dst, src, auth, handle, reply_to, size, data = each
        src, auth = (me if value is None else value for value in (src, auth))
        text += HEADER.pack(magic, flags, dst, src, auth, handle, reply_to, size) + data
    stream.flush()
    with stream.lock:
        write_all(stream.wfd, text)


def write_all(fd, text):
    """Write *text* to *fd*, which may be full at times."""
    while text:
        select.select([], [fd], [])
        text = text[os.write(fd, text[:4096]) :]


@mitogen.core.takes_econtext
def write_pieces(handle, count, econtext):
    """Write a message of *count* full frames, without the last one."""
    number = struct.pack(">L", 7)
    piece = number + bytes(mitogen.core.FRAME_SIZE)
    more, cont = mitogen.core.MORE, mitogen.core.CONT
    for index in range(count):
        flags = more | (cont if index else 0)
        size = mitogen.core.FRAME_SIZE
        write([(MAGIC, flags, 0, None, None, handle, 0, size, piece)], econtext=econtext)


@mitogen.core.takes_router
def victim_mailbox(reply, router):
    """Return all messages to a new mailbox until it closes; its Sender goes to *reply*."""
    receiver = mitogen.core.Receiver(router)
    reply.send(receiver.to_sender())
    return [(msg.src_id, msg.unpickle()) for msg in receiver]
