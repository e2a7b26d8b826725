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
