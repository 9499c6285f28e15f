"""
The core of every context: values, frames, windows, I/O, routing, importing and calls.

The files listed in PREAMBLE are sent to every child first, as one text, before the child sends
anything; the others follow on demand. So every byte of the preamble costs every child, and its
files import only modules that a bare interpreter has already loaded: no pickle, logging, threading,
socket, struct or re.

Rules
    1. Any thread may send. Only the broker thread reads, routes incoming frames and runs handlers.
    2. A handler never blocks, never imports and never runs a program's code.
    3. A value is encoded on the thread that produced it and decoded on the one that uses it. Only
       the fixed-size payloads of the protocol itself are decoded on the broker thread.
    4. The broker thread never waits for credit; a program's thread may.
    5. Every wait has an end: a reply, a dead message, a deadline or the broker's exit.
    6. A file of PREAMBLE uses only names defined in it or in an earlier file of PREAMBLE.
    7. Protocol decisions are made in the pure classes (Framer, Window, Meter), which touch no
       descriptor, thread or clock.

Threads: the broker thread and the program's threads. In a child the main thread runs calls.

This file is used on the controller only; it lists the public names. In a child core/child.py puts
the same names into the package `mitogen.core`.
"""

from __future__ import annotations

import sys

from mitogen.compat.lookup import register
from mitogen.core.child import (
    ChildRouter as ChildRouter,
    ExternalContext as ExternalContext,
    child_main as child_main,
    end_process as end_process,
    names_are_lazy as names_are_lazy,
)
from mitogen.core.codec import (
    ENCODERS as ENCODERS,
    MAX_COLLISIONS as MAX_COLLISIONS,
    MAX_DEPTH as MAX_DEPTH,
    MIN_ARRAY as MIN_ARRAY,
    TAG_BLOB as TAG_BLOB,
    TAG_CALL_ERROR as TAG_CALL_ERROR,
    TAG_CONTEXT as TAG_CONTEXT,
    TAG_DECODERS as TAG_DECODERS,
    TAG_KWARGS as TAG_KWARGS,
    TAG_SECRET as TAG_SECRET,
    TAG_SENDER as TAG_SENDER,
    TAG_SURROGATES as TAG_SURROGATES,
    TAG_TUPLE as TAG_TUPLE,
    Blob as Blob,
    Kwargs as Kwargs,
    Secret as Secret,
    check_hashes as check_hashes,
    decode as decode,
    decode_next as decode_next,
    encode as encode,
    head as head,
)
from mitogen.core.contexts import (
    Context as Context,
    Sender as Sender,
)
from mitogen.core.dispatcher import (
    Dispatcher as Dispatcher,
    takes_econtext as takes_econtext,
    takes_router as takes_router,
)
from mitogen.core.errors import (
    CallError as CallError,
    ChannelError as ChannelError,
    EncodeError as EncodeError,
    Error as Error,
    StreamError as StreamError,
    TimeoutError as TimeoutError,
)
from mitogen.core.frames import (
    _HEADER as _HEADER,
    CALL_FUNCTION as CALL_FUNCTION,
    CALL_SERVICE as CALL_SERVICE,
    CANCEL as CANCEL,
    CHUNK_SIZE as CHUNK_SIZE,
    CONT as CONT,
    CREDIT as CREDIT,
    DEL_ROUTE as DEL_ROUTE,
    FIRST_HANDLE as FIRST_HANDLE,
    FIRST_UNWINDOWED as FIRST_UNWINDOWED,
    FORWARD_LOG as FORWARD_LOG,
    FRAME_SIZE as FRAME_SIZE,
    GET_MODULE as GET_MODULE,
    HIGH_WATER as HIGH_WATER,
    IS_DEAD as IS_DEAD,
    LOAD_MODULE as LOAD_MODULE,
    LONG_SIZE as LONG_SIZE,
    MAGIC as MAGIC,
    MAX_MESSAGE_SIZE as MAX_MESSAGE_SIZE,
    MORE as MORE,
    NUMBER as NUMBER,
    PAIR as PAIR,
    PING as PING,
    RAW as RAW,
    SHUTDOWN as SHUTDOWN,
    TRIPLE as TRIPLE,
    Framer as Framer,
    Message as Message,
)
from mitogen.core.importer import (
    IMPORT_TIMEOUT as IMPORT_TIMEOUT,
    Importer as Importer,
)
from mitogen.core.io import (
    ERROR as ERROR,
    Broker as Broker,
    Poller as Poller,
    Stream as Stream,
    fire as fire,
    listen as listen,
    new_lock as new_lock,
    now as now,
    read_fd as read_fd,
)
from mitogen.core.lazy import (
    import_module as import_module,
)
from mitogen.core.routing import (
    Node as Node,
    Router as Router,
    RouteTable as RouteTable,
    Ticket as Ticket,
    has_parent_authority as has_parent_authority,
    is_neighbour as is_neighbour,
)
from mitogen.core.windows import (
    CREDIT_TIMEOUT as CREDIT_TIMEOUT,
    CREDIT_WARNING as CREDIT_WARNING,
    LOG_WINDOW as LOG_WINDOW,
    LONG_WINDOW as LONG_WINDOW,
    MESSAGE_COST as MESSAGE_COST,
    WINDOW as WINDOW,
    Meter as Meter,
    Window as Window,
    is_windowed as is_windowed,
    window_size as window_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mitogen.compat.core_names import *  # noqa: F403
    from mitogen.compat.logs import *  # noqa: F403
    from mitogen.compat.streams import *  # noqa: F403
    from mitogen.core.codec import Bytes as Bytes
    from mitogen.core.contexts import P as P, R as R
    from mitogen.core.importer import Segment as Segment
    from mitogen.core.io import Action as Action, Lock as Lock
    from mitogen.core.routing import (
        Handler as Handler,
        MessageHandler as MessageHandler,
        Policy as Policy,
    )
    from mitogen.importing.resources import (
        ResourceReader as ResourceReader,
        ResourceRequester as ResourceRequester,
    )

#: Files of the preamble, in the order in which they are sent: each may use names of earlier ones.
PREAMBLE = (
    "lazy",
    "errors",
    "codec",
    "frames",
    "windows",
    "io",
    "contexts",
    "routing",
    "importer",
    "dispatcher",
    "child",
)

# The public path of these names is this package: errors are sent under it.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("mitogen.core."):
        _value.__module__ = __name__

register(sys.modules[__name__])
names_are_lazy(sys.modules[__name__])
