"""What a hostile child does: it writes frames of its own making to its parent."""

import os
import select
import struct

import mitogen.core

#: magic, flags, dst_id, src_id, auth_id, handle, reply_to, length; as docs/design/wire.rst has it.
HEADER = struct.Struct(">HBLLLLLL")
MAGIC = mitogen.core.MAGIC
RAW = mitogen.core.RAW


def frame(handle, data=b"", dst=0, src=None, auth=None, reply_to=0, flags=0, length=None):
    """Return a frame; what is not named is what an honest sender would write.

    *src* and *auth* are context ids, None for this context's own.
    """
    size = len(data) if length is None else length
    return MAGIC, flags, dst, src, auth, handle, reply_to, size, data


@mitogen.core.takes_econtext
def write(frames, econtext):
    """Write *frames*, as frame() returns them or bytes as they are, to the parent; return nothing.

    Whatever the stream has under way goes first, so that what is hostile begins a frame.
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
    """Write *text* to *fd*, which may be full now and then."""
    while text:
        select.select([], [fd], [])
        text = text[os.write(fd, text[:4096]) :]


@mitogen.core.takes_econtext
def write_pieces(handle, count, econtext):
    """Write a message of *count* full frames and no end."""
    number = struct.pack(">L", 7)
    piece = number + bytes(mitogen.core.FRAME_SIZE)
    more, cont = mitogen.core.MORE, mitogen.core.CONT
    for index in range(count):
        flags = more | (cont if index else 0)
        size = mitogen.core.FRAME_SIZE
        write([(MAGIC, flags, 0, None, None, handle, 0, size, piece)], econtext=econtext)


@mitogen.core.takes_router
def victim_mailbox(reply, router):
    """Return all that comes to a new mailbox, whose Sender goes to *reply*, until it closes."""
    receiver = mitogen.core.Receiver(router)
    reply.send(receiver.to_sender())
    return [(msg.src_id, msg.unpickle()) for msg in receiver]
