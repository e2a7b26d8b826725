"""Shell: gRPC servers and channels with the settings that long, quiet, bidirectional streams need.

The defaults of gRPC lose a fifth of 10,000 streams opened at once, answer quiet clients' pings with GOAWAY,
and let two servers share a port silently; the options below are why ours do not.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import grpc

from tandem.core.errors import InvalidInput, Unavailable
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.tls import channel_credentials, server_credentials

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest message either side accepts: a raw 4-megapixel RGB picture fits, little more does."""

UNREAD_BYTES = 1024 * 1024
"""What the other end may send of a call that nobody reads: a stream gets so much through in a round trip,
10 MB/s at 100 ms; for a message that is read all of it may come."""

KEEPALIVE_MS, PING_TIMEOUT_MS = 10_000, 10_000
"""Silence before a ping, and how long its answer may take: a connection that carries nothing any more, as
when a cable is pulled, ends within both."""

_COMMON_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),  # a minute by default, which the former does not shorten
    ("grpc.http2.max_pings_without_data", 0),
)

_SERVER_OPTIONS: tuple[tuple[str, Any], ...] = (
    *_COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),
    # What a call holds before anybody reads it: or it grows with the connection's speed, to a whole message.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 60_000),
)

_CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    *_COMMON_OPTIONS,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: how long one attempt waits for the peer's first frame. A busy peer needs a while.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # One TCP connection per channel: streams of different owners do not share a fate.
    ("grpc.use_local_subchannel_pool", 1),
)


_kept: list[object] = []
"""Credentials of servers: gRPC asks them for certificates at each connection, and keeps no reference."""


def parse_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` (IPv6 in brackets). Raises `InvalidInput` that says what was expected."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise InvalidInput(f"not an address: {address!r} (expected host:port, for example 127.0.0.1:7420)")
    return host.strip("[]"), int(port)


def is_wildcard(address: str) -> bool:
    """True when a listener on `address` would accept connections on every interface."""
    host, _ = parse_address(address)
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "*"


def is_loopback(address: str) -> bool:
    """True when only this machine can reach a listener on `address`."""
    host, _ = parse_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_server(
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Server:
    """A server with the project's options; not yet bound or started."""
    options = (*_SERVER_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes))
    return grpc.aio.server(options=options, interceptors=list(interceptors))


def bind(server: grpc.aio.Server, listen: str, tls: TlsFiles = NO_TLS) -> str:
    """Bind `server` to `listen` (port 0 picks a free one) and return the address with the real port.

    Raises:
        InvalidInput: the address is not ``host:port``, or would listen on every interface, or the files of
            `tls` cannot be used.
        Unavailable: the port is taken or the host is not one of this machine's.
    """
    host, _ = parse_address(listen)
    if is_wildcard(listen):
        raise InvalidInput(
            f"refusing to listen on every interface ({listen}): name the address to listen on, "
            "for example 127.0.0.1:7420 or the pod's own IP"
        )
    credentials = server_credentials(tls) if tls.serves else None
    _kept.append(credentials)
    try:
        if credentials is None:
            port = server.add_insecure_port(listen)
        else:
            port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise Unavailable(f"cannot listen on {listen}: the port is taken or the host is not ours") from error
    if port == 0:
        raise Unavailable(f"cannot listen on {listen}: the port is taken or the host is not ours")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def make_channel(address: str, tls: TlsFiles = NO_TLS) -> grpc.aio.Channel:
    """A channel to `address` with the project's options. Connects lazily.

    Raises `InvalidInput` when the files of `tls` cannot be used. Without any, nothing is encrypted.
    """
    parse_address(address)
    if not tls.trusts:
        return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
    name = (("grpc.ssl_target_name_override", tls.name),) if tls.name else ()
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=(*_CHANNEL_OPTIONS, *name))
