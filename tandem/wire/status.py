"""Pure: `tandem.core.errors` to and from protobuf errors and gRPC status codes, in one table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn, cast

import grpc

from tandem.core.addresses import is_reachable_address
from tandem.core.errors import (
    DeadlineExceeded,
    ErrorCode,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotLeader,
    PermissionRefused,
    TandemError,
    Unavailable,
    WrongState,
    error_from_code,
)
from tandem.wire.gen.tandem.v1 import types_pb2

STATUS_OF_CODE = {
    ErrorCode.INVALID_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.BAD_MEDIA: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.BAD_TIMESTAMP: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.BAD_QUESTION: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    ErrorCode.WRONG_STATE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.PERMISSION_REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    ErrorCode.LIMIT_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.SLOW_READER: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INCOMPATIBLE: grpc.StatusCode.FAILED_PRECONDITION,
    ErrorCode.DATA_LOST: grpc.StatusCode.DATA_LOSS,
    ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.NOT_LEADER: grpc.StatusCode.UNAVAILABLE,
    ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
}

CODE_KEY = "tandem-code"
"""Trailing metadata with the exact error code: gRPC's own codes are fewer than ours."""
RETRY_KEY = "tandem-retry-after-ms"
"""Trailing metadata with `retry_after_s` in milliseconds."""
LEADER_KEY = "tandem-leader"
"""Trailing metadata of `NotLeader`: the address of the orchestrator that leads, where it is known."""

_ERROR_OF_STATUS: dict[grpc.StatusCode, type[TandemError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.PERMISSION_DENIED: PermissionRefused,
    grpc.StatusCode.UNAUTHENTICATED: PermissionRefused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # A call cut off by its peer's death; the peer may be back soon.
    grpc.StatusCode.CANCELLED: Unavailable,
}

MAX_MESSAGE = 2000
"""Characters of an error's message: a longer one would break the limit of what comes with a call's end."""
_CORE_GAVE_UP = "Internal error from Core"
"""What grpcio says of a call whose connection ended while it was writing: the peer died, it did not err."""


def error_to_proto(error: BaseException) -> types_pb2.Error:
    """The error for the wire. What is not a `TandemError` becomes ``internal`` without its details."""
    if not isinstance(error, TandemError):
        return types_pb2.Error(
            code=ErrorCode.INTERNAL, message="internal error; the server's log has details"
        )
    return types_pb2.Error(
        code=error.code,
        message=error.message,
        retry_after_ms=round((error.retry_after_s or 0.0) * 1000),
    )


def error_from_proto(message: types_pb2.Error) -> TandemError:
    """The typed error that `message` describes."""
    retry_after_s = message.retry_after_ms / 1000 if message.retry_after_ms else None
    return error_from_code(message.code, message.message, retry_after_s)


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> NoReturn:
    """End a call with the status of `error`; its exact code travels in the trailing metadata."""
    proto = error_to_proto(error)
    message = proto.message if len(proto.message) <= MAX_MESSAGE else proto.message[:MAX_MESSAGE] + " [cut]"
    metadata: tuple[tuple[str, str], ...] = ((CODE_KEY, proto.code), (RETRY_KEY, str(proto.retry_after_ms)))
    if isinstance(error, NotLeader) and error.leader:
        metadata = (*metadata, (LEADER_KEY, error.leader))
    await context.abort(STATUS_OF_CODE[ErrorCode(proto.code)], message, trailing_metadata=metadata)
    raise AssertionError("context.abort returned")


def error_from_rpc(error: grpc.aio.AioRpcError, doing: str) -> TandemError:
    """The typed error behind a failed call; `doing` says what was tried, for the message."""
    trailing: dict[str, str | bytes] = dict(
        cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    )
    details = error.details() or error.code().name.lower()
    code = trailing.get(CODE_KEY)
    if isinstance(code, str):
        retry_ms = trailing.get(RETRY_KEY, "0")
        retry_after_s = int(retry_ms) / 1000 if isinstance(retry_ms, str) and retry_ms.isdigit() else None
        found = error_from_code(code, details, retry_after_s or None)
        leader = trailing.get(LEADER_KEY, "")
        if isinstance(found, NotLeader) and isinstance(leader, str) and is_reachable_address(leader):
            found.leader = leader
        return found
    cls = Unavailable if details == _CORE_GAVE_UP else _ERROR_OF_STATUS.get(error.code(), Internal)
    return cls(f"{doing}: {details}")
