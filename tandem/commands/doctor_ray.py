"""Shell: what `tandem doctor` says about Ray: what of it runs here, where it listens, and who guards it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from tandem.commands.findings import Finding, Mark
from tandem.core.errors import PermissionRefused, TandemError
from tandem.core.listeners import listeners_of

_PROC = Path("/proc")
_DAEMONS = ("gcs_server", "raylet")


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
            addresses = listeners_of(pid)
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
