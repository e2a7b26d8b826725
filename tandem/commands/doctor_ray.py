"""Shell: what `tandem doctor` says about Ray: what of it runs here, where it listens, and who guards it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from tandem.commands.findings import Finding, Mark
from tandem.core.errors import PermissionRefused, TandemError

_PROC = Path("/proc")
_DAEMONS = ("gcs_server", "raylet")
_LISTENING = "0A"
"""State of a socket in /proc/net/tcp."""


def ray_findings() -> Iterator[Finding]:
    """For a machine on which Ray is installed."""
    from orchestrator.backends.ray_guard import is_off

    if is_off(os.environ):
        yield Finding(
            Mark.BAD,
            f"RAY_AUTH_MODE={os.environ['RAY_AUTH_MODE']}: a Ray that is started so runs anybody's code",
            "unset it; the ray backend refuses such a Ray without --insecure-ray",
        )
    for name in _DAEMONS:
        for pid in _processes(name):
            addresses = _listeners_of(pid)
            yield Finding(
                Mark.NOTE,
                f"{name} of Ray (pid {pid}) listens on {', '.join(addresses) or 'nothing that may be seen'}",
                "Ray listens on every interface whatever address it is given: keep it inside its network",
            )
            if name == "gcs_server":
                yield from asyncio.run(_guarded(addresses))


async def _guarded(addresses: Collection[str]) -> list[Finding]:
    """Asks each port; only one of them is the GCS's own."""
    from orchestrator.backends.ray_guard import check_guarded

    for address in addresses:
        host, _, port = address.rpartition(":")
        target = f"127.0.0.1:{port}" if host in ("*", "[::]") else address
        try:
            await check_guarded(target, False, {})
        except PermissionRefused as error:
            return [Finding(Mark.BAD, error.message)]
        except TandemError:
            continue
        return [Finding(Mark.OK, f"the Ray at {target} asks for a token")]
    return []


def _processes(name: str) -> Iterator[int]:
    for path in _PROC.glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == name:
                yield int(path.parent.name)


def _listeners_of(pid: int) -> list[str]:
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


def listeners(table: str, inodes: Collection[str]) -> list[str]:
    """Pure: addresses, ``host:port`` with ``*`` for every interface, of the listening sockets among `inodes`.

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
            shown = "*" if host.is_unspecified else f"[{host}]" if host.version == 6 else str(host)
            found.append(f"{shown}:{int(port, 16)}")
    return found
