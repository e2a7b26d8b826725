"""Pure. Whether a new stream is let in, at which rate, and when a refused one should come again.

A stream is let in where the *least* that its client accepts fits beside the least of all that are there: then
nobody ever has to leave, and nothing waits for anything, so nothing can be deadlocked. It begins at its fair
share of the rest. A service without streams always takes one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.capacity import MAX_RAM, EncoderRoom, Held, ReasonerRoom, loads
from orchestrator.membership import Role
from tandem.core.overload import MAX_SHARE, Overload
from tandem.core.shares import Need, fill

MIN_RETRY_S = 1.0
MAX_RETRY_S = 600.0
MIN_LIFE_S = 10.0
"""What a stream is taken to last at least, as long as none has ended."""
PROCESSORS_RETRY_S = 5.0
"""Longest wait for processors: what others use of them changes within seconds, not as streams end."""
_Wait = Callable[[float, Sequence[tuple[float, Held]]], float]
"""`retry_after`, told the time."""
_FULL = {Overload.LATE: "is late with", Overload.GAPS: "leaves frames out of"}
"""Why an encoder takes no new streams."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """It is let in."""

    fps: float
    """What it begins with; 0: what it asked for."""
    encoder: str
    reasoner: str
    reason: str

    @property
    def is_degraded(self) -> bool:
        """True when that is less than it asked for."""
        return self.fps > 0


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no room for it."""

    reason: str
    retry_after_s: float
    lacks: Role = Role.ENCODER
    """More of which would help."""


def admit(
    wish: Held,
    encoders: Iterable[EncoderRoom],
    reasoners: Iterable[ReasonerRoom],
    held: Sequence[Held],
    *,
    now_s: float,
    life_s: float,
) -> Admitted | Refused:
    """Decide on a new stream.

    Args:
        wish: the stream.
        encoders: those that take streams.
        reasoners: those that take streams.
        held: all streams that have room.
        now_s: the time, on the clock of `Held.leaves_s`.
        life_s: how long streams lasted that have ended; 0 when none has.
    """
    pairs = [(e, r) for e in encoders for r in reasoners if e.fingerprint == r.fingerprint]
    if not pairs:
        return Admitted(0.0, "", "", "no pair of services is ready yet: it waits for one")
    wait = partial(retry_after, now_s=now_s, life_s=life_s)
    found = [_at(wish, e, r, held, wait) for e, r in pairs]
    fitting = [each for each in found if isinstance(each, Admitted)]
    if not fitting:
        return min((each for each in found if isinstance(each, Refused)), key=lambda it: it.retry_after_s)
    load = loads({e.name: e for e, _ in pairs}, {r.name: r for _, r in pairs}, list(held))

    def rank(it: Admitted) -> tuple[float, float, float, str, str]:
        return -(it.fps or float("inf")), load[it.reasoner], load[it.encoder], it.reasoner, it.encoder

    return min(fitting, key=rank)


def retry_after(missing: float, frees: Sequence[tuple[float, Held]], *, now_s: float, life_s: float) -> float:
    """Seconds after which `missing` should be free.

    The earlier of two: when so many of those without a client are due to go, and when so many should have
    ended by how long streams last (of n streams that last L seconds, one ends every L / n).

    Args:
        missing: how much has to become free.
        frees: what each stream gives back when it goes, in the same unit.
        now_s: the time.
        life_s: how long streams lasted that have ended; 0: as long as those that are there are old.
    """
    total = sum(amount for amount, _ in frees)
    if total <= 0:
        return MAX_RETRY_S
    ages_s = [now_s - stream.opened_s for _, stream in frees]
    lasts_s = life_s or max(sum(ages_s) / len(ages_s), MIN_LIFE_S)
    # `missing / total` of them, at one every lasts / n: the number of streams cancels out.
    guess_s = min(missing / total, 1.0) * lasts_s
    freed, due_s = 0.0, MAX_RETRY_S
    for amount, stream in sorted(frees, key=lambda it: (it[1].leaves_s is None, it[1].leaves_s or 0.0)):
        if stream.leaves_s is None:
            break
        freed += amount
        if freed >= missing:
            due_s = stream.leaves_s - now_s
            break
    return min(max(min(guess_s, due_s), MIN_RETRY_S), MAX_RETRY_S)


def _at(wish: Held, e: EncoderRoom, r: ReasonerRoom, held: Sequence[Held], wait: _Wait) -> Admitted | Refused:
    full = _no_place(e, r, held, wait) or _ram_refusal(e, r, held, wait)
    if full is not None:
        return full
    there = [stream for stream in held if stream.encoder == e.name]
    if there and e.overload in _FULL:
        wait_s = wait(1.0, [(1.0, stream) for stream in there])
        return Refused(f"{e.name} {_FULL[e.overload]} the {len(there)} streams that it has", wait_s)
    if not e.is_known:
        return Admitted(0.0, e.name, r.name, f"{e.name} has not encoded enough to tell what a stream costs")
    if not there:
        return Admitted(0.0, e.name, r.name, f"it is alone on {e.name}")
    floors = [stream.floor(e) for stream in there]
    # Not the floor of `Held`: what needs more than a whole encoder is let in only where it is alone.
    floor = e.share(wish.min_fps or wish.fps)
    limit = ", as far as its processors go" if e.limit == "processors" else ""
    words = (
        f"{e.name} can do {e.units_per_second:.3g} units a second{limit}, "
        f"{sum(floors) / e.unit_seconds:.3g} are kept for {len(there)} streams"
    )
    missing = sum(floors) + floor - MAX_SHARE
    if missing > 1e-9:
        wait_s = wait(missing, list(zip(floors, there, strict=True)))
        if e.limit == "processors":
            wait_s = min(wait_s, PROCESSORS_RETRY_S)
        return Refused(f"{words}; this stream needs at least {floor / e.unit_seconds:.3g}", wait_s)
    needs = [Need(a, stream.want(e)) for a, stream in zip(floors, there, strict=True)]
    want = max(e.share(wish.fps), floor)
    given = fill([*needs, Need(floor, want)], MAX_SHARE)[-1]
    if given >= want * (1 - 1e-6):
        return Admitted(0.0, e.name, r.name, f"{words}: it fits")
    # In hundredths: a rate is for people too.
    fps = max(math.floor((wish.fps or e.native_fps) * given / want * 100) / 100, wish.min_fps)
    return Admitted(
        fps, e.name, r.name, f"{words}: its fair share of the rest is {fps:.3g} frames per second"
    )


def _no_place(e: EncoderRoom, r: ReasonerRoom, held: Sequence[Held], wait: _Wait) -> Refused | None:
    """A service that was started with a `--max-streams` of its own would refuse one more."""
    at_encoder = [stream for stream in held if stream.encoder == e.name]
    at_reasoner = [stream for stream in held if stream.reasoner == r.name]
    for role, room, there in ((Role.ENCODER, e, at_encoder), (Role.REASONER, r, at_reasoner)):
        if room.max_streams and len(there) >= room.max_streams:
            wait_s = wait(len(there) + 1 - room.max_streams, [(1.0, stream) for stream in there])
            words = f"{room.name} takes {room.max_streams:.0f} streams and has {len(there)}"
            return Refused(words, wait_s, role)
    return None


def _ram_refusal(e: EncoderRoom, r: ReasonerRoom, held: Sequence[Held], wait: _Wait) -> Refused | None:
    there = [stream for stream in held if stream.reasoner == r.name]
    need, room = e.window_bytes, max(MAX_RAM * r.ram_bytes - r.notes_bytes, 0.0)
    if not there or not need or not r.ram_bytes or need * (len(there) + 1) <= room:
        return None
    missing = need * (len(there) + 1) - room
    wait_s = wait(missing, [(need, stream) for stream in there])
    return Refused(
        f"the windows of {len(there)} streams have {need * len(there) / 1e6:.0f} of the {room / 1e6:.0f} MB "
        f"that {r.name} has for windows; this stream needs {need / 1e6:.1f}",
        wait_s,
        Role.REASONER,
    )
