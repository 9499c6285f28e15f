"""Public names of services and their pools. See mitogen.services."""

from __future__ import annotations

from mitogen.services.pool import (
    Activator as Activator,
    AllowAny as AllowAny,
    AllowParents as AllowParents,
    DeduplicatingInvoker as DeduplicatingInvoker,
    Error as Error,
    FileService as FileService,
    Invoker as Invoker,
    Policy as Policy,
    Pool as Pool,
    PushFileService as PushFileService,
    SerializedInvoker as SerializedInvoker,
    Service as Service,
    adopt as adopt,
    arg_spec as arg_spec,
    call as call,
    expose as expose,
    get_or_create_pool as get_or_create_pool,
    no_reply as no_reply,
    validate_arg_spec as validate_arg_spec,
)

__all__ = [
    "Activator",
    "AllowAny",
    "AllowParents",
    "DeduplicatingInvoker",
    "Error",
    "FileService",
    "Invoker",
    "Policy",
    "Pool",
    "PushFileService",
    "SerializedInvoker",
    "Service",
    "adopt",
    "arg_spec",
    "call",
    "expose",
    "get_or_create_pool",
    "no_reply",
    "validate_arg_spec",
]
