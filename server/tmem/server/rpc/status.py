"""Errors on their way out: from the tree of tmem.wire to a gRPC status.

Owns: the one place that turns an exception into a status. The reason travels as trailing metadata, the message as details;
an exception that is not ours becomes INTERNAL without its text, which may hold anything.
"""

import grpc

from tmem.wire.errors import TABLE, MalformedBatch, ProtocolError, Refused, TmemError, Unauthenticated
from tmem.wire.metadata import REASON
from tmem.wire.results import Reason

__all__ = ["status_of"]

Trailing = tuple[tuple[str, str], ...]


def status_of(error: Exception) -> tuple[grpc.StatusCode, str, Trailing]:
    """Code, details and trailing metadata for an exception."""
    if isinstance(error, Refused):
        row = TABLE[error.reason]
        return grpc.StatusCode[row.code], str(error), ((REASON, error.reason.name),)
    if isinstance(error, Unauthenticated):
        return grpc.StatusCode.UNAUTHENTICATED, str(error), ()
    if isinstance(error, ProtocolError | MalformedBatch):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error), ((REASON, Reason.INVALID.name),)
    if isinstance(error, TmemError):
        return grpc.StatusCode.FAILED_PRECONDITION, str(error), ()
    return grpc.StatusCode.INTERNAL, "internal error; the server's log says more", ()
