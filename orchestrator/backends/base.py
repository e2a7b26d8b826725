"""Pure. What every backend can do. All of them start the same service commands.

Registration, health, leases and draining are not here: they are the orchestrator's own, over gRPC, and the
same whoever started the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from orchestrator.membership import Role


@dataclass(frozen=True, slots=True)
class Wanted:
    """A service that should run."""

    name: str
    role: Role


def services(*, encoders: int, reasoners: int) -> tuple[Wanted, ...]:
    """So many of each, with their names."""
    found = [Wanted(f"reasoner-{i}", Role.REASONER) for i in range(reasoners)]
    return (*found, *(Wanted(f"encoder-{i}", Role.ENCODER) for i in range(encoders)))


class Backend(Protocol):
    """Keeps the wanted services running."""

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What this backend keeps running; empty when somebody else does."""
        ...

    @property
    def endings(self) -> Mapping[str, str]:
        """How the last process of a service ended, by its name, of those of which one did."""
        ...

    async def start(self, orchestrator: str) -> None:
        """Start everything; the services attach to `orchestrator` (host:port) when they are ready."""
        ...

    def ready(self, name: str) -> None:
        """A service attached. Its earlier failures are forgotten after a while."""
        ...

    def replace(self, name: str, reason: str) -> None:
        """This start of a service is lost (frozen, cut off): end it and start another. No-op if unknown."""
        ...

    async def stop(self) -> None:
        """Stop everything that was started, and wait for it."""
        ...


class NoBackend:
    """Services are started by somebody else (a chart, a person)."""

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """Nothing."""
        return ()

    @property
    def endings(self) -> Mapping[str, str]:
        """None that is known."""
        return {}

    async def start(self, orchestrator: str) -> None:
        """Nothing to start."""

    def ready(self, name: str) -> None:
        """Nothing to note."""

    def replace(self, name: str, reason: str) -> None:
        """Nothing to replace."""

    async def stop(self) -> None:
        """Nothing to stop."""
