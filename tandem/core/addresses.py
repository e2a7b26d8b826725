"""Pure. What an address may be, for settings that are checked before anything heavy is imported."""

from __future__ import annotations

import ipaddress


def is_wildcard_host(host: str) -> bool:
    """True for a host that stands for every interface of a machine, or for none."""
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare).is_unspecified
    except ValueError:
        return bare in {"", "0", "*"}


def is_reachable_address(address: str) -> bool:
    """True for ``host:port`` that another process can be told: no wildcard, and a port."""
    host, colon, port = address.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) <= 65535
    return bool(colon) and is_port and not is_wildcard_host(host)


def split_address(address: str) -> tuple[str, int]:
    """Host, without the brackets of IPv6, and port; ask `listen_problem` first."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listen_problem(address: str) -> str:
    """Why nothing may listen at ``host:port``; empty when it may."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        return f"{address!r} is not host:port, for example 127.0.0.1:7421"
    if is_wildcard_host(host):
        return f"{address} is every interface; name the one address to listen on"
    return ""
