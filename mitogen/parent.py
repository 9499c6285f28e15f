"""Public names for connecting contexts and calling functions in them. See mitogen.tree."""

from __future__ import annotations

import sys

from mitogen.bootstrap.handshake import (
    EofError as EofError,
    LoginError as LoginError,
    UnsupportedPythonError as UnsupportedPythonError,
)
from mitogen.calls.chain import (
    CallChain as CallChain,
)
from mitogen.core.child import names_are_lazy
from mitogen.methods.connection import (
    Connection as Connection,
    LocalOptions as LocalOptions,
    Options as Options,
    get_default_remote_name as get_default_remote_name,
    get_sys_executable as get_sys_executable,
)
from mitogen.methods.registry import (
    METHODS as METHODS,
    get_connection_class as get_connection_class,
)
from mitogen.tree.connecting import (
    Attempt as Attempt,
    CancelledError as CancelledError,
    ChildStream as ChildStream,
    Connecting as Connecting,
)
from mitogen.tree.contexts import (
    Context as Context,
)
from mitogen.tree.ids import (
    BLOCK_SIZE as BLOCK_SIZE,
    ChildIds as ChildIds,
    IdAllocator as IdAllocator,
)
from mitogen.tree.message_handles import (
    ADD_ROUTE as ADD_ROUTE,
    ALLOCATE_ID as ALLOCATE_ID,
    AWAIT_END as AWAIT_END,
    DETACHING as DETACHING,
    FORWARD_MODULE as FORWARD_MODULE,
    GET_RESOURCE as GET_RESOURCE,
    LOAD_RESOURCE as LOAD_RESOURCE,
)
from mitogen.tree.relayed_modules import (
    RelayedModules as RelayedModules,
)
from mitogen.tree.router import (
    Router as Router,
)
from mitogen.tree.routes import (
    Branch as Branch,
    defer_sync as defer_sync,
    upgrade as upgrade,
    upgrade_router as upgrade_router,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Found late.
    from mitogen.compat.parent_names import *  # noqa: F403

__all__ = [
    "Branch",
    "CallChain",
    "CancelledError",
    "Connection",
    "Context",
    "EofError",
    "LoginError",
    "Options",
    "Router",
    "UnsupportedPythonError",
    "get_connection_class",
    "upgrade",
    "upgrade_router",
]

# Names used by old programs, imported at first use.
names_are_lazy(sys.modules[__name__])
