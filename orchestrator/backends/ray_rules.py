"""Pure. What to do about a service's actor, given what was seen of it, and which leftovers may go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.backends.ray_plan import run_of

PATIENCE_S = 20.0
"""An actor that has room and says nothing for longer is taken for lost. Its own start takes up to ten."""
SAY_WAITING_S = 5.0
"""A service without room for longer is worth a word."""
LEFT_S = 60.0
"""A placement group of another run that has no actor for so long belongs to nobody."""


class Do(StrEnum):
    """What is done."""

    NOTHING = "nothing"
    CREATE = "create the actor"
    ADOPT = "tell it what it runs now"
    REPLACE = "end the actor for good; the next look creates another"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known of one service's actor."""

    exists: bool
    """Ray knows an actor of that name that is not dead for good."""
    create_in_s: float
    """Until another may be made; 0 or less: now. Those that die at their start are made with back-off."""
    digest: str | None
    """Of the spec that it runs; None: it did not answer this time."""
    has_group: bool
    """Its placement group is there."""
    has_room: bool
    """That has its resources."""
    silent_s: float
    """Since it answered last, or since it got its room."""
    is_ready: bool
    """The service itself is attached and beats."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why."""

    do: Do
    reason: str


def decide(seen: Seen, digest: str) -> Decision:
    """About one actor; `digest` is that of the spec it should run."""
    if not seen.exists and seen.create_in_s > 0:
        return Decision(Do.NOTHING, f"the last one died at its start; another in {seen.create_in_s:.1f} s")
    if not seen.exists:
        return Decision(Do.CREATE, "no actor has its name")
    if seen.digest is not None:
        if seen.digest != digest:
            return Decision(Do.ADOPT, "it was started for other settings, or for an orchestrator elsewhere")
        return Decision(Do.NOTHING, "it answers")
    if seen.is_ready:
        # What it watches over is well: ending it would end that too.
        return Decision(Do.NOTHING, "its service beats")
    if not seen.has_group:
        return Decision(Do.REPLACE, "its placement group is gone, without which Ray never starts it again")
    if not seen.has_room:
        return Decision(Do.NOTHING, "Ray has no room for it yet")
    if seen.silent_s > PATIENCE_S:
        return Decision(Do.REPLACE, f"silent for {seen.silent_s:.0f} s, and its service does not beat")
    return Decision(Do.NOTHING, f"silent for {seen.silent_s:.0f} s so far")


def waiting(name: str, needs: Collection[tuple[str, float]], free: dict[str, float]) -> str:
    """What to tell a person about a service that has no room."""
    asked = " and ".join(f"{amount:g} {what}" for what, amount in needs)
    there = ", ".join(f"{free.get(what, 0.0):g} {what}" for what, _ in needs)
    return f"{name} waits for a node with {asked} (free in the whole cluster: {there})"


class Leftovers:
    """Placement groups that dead runs left. Owned by the event loop; time comes in as an argument."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._since_s: dict[str, float] = {}

    def due(self, now_s: float, present: Collection[str], alive: Collection[str]) -> list[str]:
        """Names of the groups that may go now: of other runs, and without an actor for `LEFT_S`.

        Args:
            now_s: monotonic time.
            present: names of all placement groups.
            alive: namespaces in which any actor has a name.
        """
        idle = {name for name in present if (run := run_of(name)) and run != self._run and run not in alive}
        self._since_s = {name: self._since_s.get(name, now_s) for name in idle}
        return sorted(name for name, since_s in self._since_s.items() if now_s - since_s > LEFT_S)
