"""Pure: turns what gRPC raises into the project's typed errors, and says which are worth another try."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import grpc

from tandem.core.errors import (
    DataLost,
    DeadlineExceeded,
    LimitExceeded,
    NotFound,
    PermissionRefused,
    TandemError,
    Unavailable,
)
from tandem.wire.status import CODE_KEY, error_from_rpc

CALL_ERRORS = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
"""What grpc.aio raises from a call that broke: after the first error, later writes raise the others."""

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL)
"""Statuses that gRPC itself makes for a call that broke: INTERNAL when a write met the end of the call, or
when an overrun server dropped it before its first message."""

GONE = (NotFound, PermissionRefused, DataLost)
"""What a server says to a resume whose stream or token it no longer has."""


class NobodyThere(Unavailable):
    """Nothing listens at the address: before a stream was ever open, waiting for it seldom helps."""


def typed_error(error: BaseException, *, address: str, doing: str) -> TandemError:
    """The typed error behind `error`, which came out of a call to `address`."""
    if isinstance(error, TandemError):
        return error
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"{doing}: no reply from {address} in time")
    if not isinstance(error, grpc.aio.AioRpcError):
        return Unavailable(f"{doing}: the connection to {address} broke")
    if error.code() in _BROKEN and not _is_ours(error):
        details = (error.details() or "").lower()
        if "handshake" in details:
            return Unavailable(
                f"{doing}: {address} shows no certificate that is good here: see --tls-ca and --tls-name"
            )
        if "failed to connect" in details and "socket closed" in details:
            return Unavailable(
                f"{doing}: {address} closes the connection at once: it may want TLS (--tls-ca), or a "
                "certificate (--tls-cert, --tls-key)"
            )
        if "failed to connect" in details:
            return NobodyThere(
                f"{doing}: nothing answers at {address}; start the services with `tandem up`, "
                "or name the right address"
            )
        return Unavailable(f"{doing}: the connection to {address} broke")
    return error_from_rpc(error, doing)


def is_worth_another_try(error: TandemError, *, was_open: bool) -> bool:
    """True when a new connection may succeed where this one failed; `was_open`: the stream had been open."""
    if isinstance(error, LimitExceeded):
        return was_open
    return isinstance(error, Unavailable | DeadlineExceeded)


def _is_ours(error: grpc.aio.AioRpcError) -> bool:
    trailing = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    return any(key == CODE_KEY for key, _ in trailing)
