"""Where processes listen, and what protects that: what they say of themselves, and what the kernel says.

`listeners` and the words are pure; `listeners_of` and `check_own_listeners` read /proc: elsewhere than on
Linux they find nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from tandem.core.errors import InvalidInput
from tandem.core.tls_files import TlsFiles

LISTENERS = "listeners"
"""The detail of a heartbeat under which a service names its listeners, `SEPARATOR` between them."""
SEPARATOR = "; "
_PROC = Path("/proc")
_LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


def describe(address: str, what: str, *protections: str) -> str:
    """One listener in words, the address first: ``127.0.0.1:7420 front door (tls, tokens)``."""
    return f"{address} {what} ({', '.join(filter(None, protections)) or 'plain'})"


def tls_words(tls: TlsFiles) -> str:
    """What TLS does for a listener; empty: there is none."""
    if tls.is_mutual:
        return "mtls"
    return "tls" if tls.serves else ""


def service_listeners(address: str, tls: TlsFiles, metrics: str = "", health: str = "") -> str:
    """The detail `LISTENERS` of an encoder or reasoner."""
    found = [describe(address, "calls", tls_words(tls), "cluster secret")]
    found += [describe(metrics, "metrics")] if metrics else []
    found += [describe(health, "health")] if health else []
    return SEPARATOR.join(found)


def listeners(table: str, inodes: Collection[str]) -> list[str]:
    """Addresses, ``host:port`` with ``*`` for every interface, of the listening sockets among `inodes`.

    `table` is the text of ``/proc/net/tcp`` or ``tcp6``: addresses are hex, in 32-bit words of this machine's
    byte order.
    """
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTENING and fields[9] in inodes:
            packed, _, port = fields[1].partition(":")
            raw = bytes.fromhex(packed)
            words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
            host = ipaddress.ip_address(b"".join(words))
            if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
                host = host.ipv4_mapped  # gRPC listens on addresses of version 4 by sockets of version 6
            shown = "*" if host.is_unspecified else f"[{host}]" if host.version == 6 else str(host)
            found.append(f"{shown}:{int(port, 16)}")
    return found


def listeners_of(pid: int | str) -> list[str]:
    """The same of a process, or of "self"; of another user's nothing can be seen."""
    inodes = set()
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
    found: list[str] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            found += listeners((_PROC / str(pid) / "net" / table).read_text(), inodes)
    return sorted(set(found))


def on_every_interface(addresses: Iterable[str]) -> list[str]:
    """Those of `listeners` that any network of the machine reaches."""
    return [address for address in addresses if address.startswith("*:")]


def check_own_listeners(*, allowed: bool = False) -> None:
    """Raises `InvalidInput` when this process listens on every interface, whatever opened the socket.

    What we open ourselves is checked before; a library may open more than its caller knows.
    """
    if not allowed and (found := on_every_interface(listeners_of("self"))):
        raise InvalidInput(
            f"this process listens on every interface at port {', '.join(a[2:] for a in found)}, which "
            "nothing of Tandem does: something that it loads opened it; --allow-wildcard starts it anyway"
        )
