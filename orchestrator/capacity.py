"""Pure. What services can take, and what a stream costs them, from what they say of themselves.

::

    units a second   = fps / frames a unit
    encoder share    = units a second * unit_seconds             of 1 second of the model a second
    window bytes     = window_units * tokens a unit * bytes a token    in the reasoner's RAM

The window is what a stream must find in RAM whatever else is held: an encoder that takes it over is given it,
and it is the newest part of every question's view. Older blocks are demoted to make room, windows are not.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.membership import Member, Role
from tandem.core import overload
from tandem.core.heartbeats import MAX_STREAMS
from tandem.core.overload import MAX_SHARE, Overload

MAX_RAM = 0.8
"""Of a reasoner's RAM budget that windows may have: the rest holds what is on its way to disk."""
NOMINAL_LOAD = 0.02
"""What a stream counts for where its cost is not known yet."""
QUESTION_LOAD = 0.05
"""What an open question counts for at a reasoner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRoom:
    """What an encoder says of itself. Numbers are 0 while it has not said."""

    name: str
    fingerprint: str
    native_fps: float = 0.0
    frames_per_unit: float = 1.0
    unit_seconds: float = 0.0
    limit: str = ""
    """What that was measured at: "model", "processors", or not told."""
    unit_tokens: float = 0.0
    token_bytes: float = 0.0
    window_units: float = 0.0
    busy_share: float = 0.0
    max_streams: float = 0.0
    overload: Overload = Overload.NONE

    @property
    def is_known(self) -> bool:
        """True once it has told what a unit costs."""
        return self.unit_seconds > 0

    def share(self, fps: float) -> float:
        """Seconds of its model a second that a stream of so many frames per second needs; 0 fps: native."""
        return (fps or self.native_fps) / self.frames_per_unit * self.unit_seconds

    @property
    def units_per_second(self) -> float:
        """What may be promised in all; infinite while not known."""
        return MAX_SHARE / self.unit_seconds if self.is_known else math.inf

    @property
    def window_bytes(self) -> float:
        """RAM that one stream needs at its reasoner."""
        return self.window_units * self.unit_tokens * self.token_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerRoom:
    """What a reasoner says of itself."""

    name: str
    fingerprint: str
    ram_bytes: float = 0.0
    """Its budget; 0: not told."""
    notes_bytes: float = 0.0
    """In RAM besides: notes that are on no disk."""
    questions: float = 0.0
    max_streams: float = 0.0


def encoder_room(member: Member, native_fps: float) -> EncoderRoom:
    """What an encoder's heartbeat says; `native_fps` is its model's own rate."""
    details = member.details
    told = details.get(overload.OVERLOAD, "")
    return EncoderRoom(
        name=member.identity.name,
        fingerprint=member.identity.fingerprint,
        native_fps=native_fps,
        frames_per_unit=_number(details, overload.FRAMES_PER_UNIT) or 1.0,
        unit_seconds=_number(details, overload.UNIT_SECONDS),
        limit=details.get(overload.LIMIT, ""),
        unit_tokens=_number(details, overload.UNIT_TOKENS),
        token_bytes=_number(details, overload.TOKEN_BYTES),
        window_units=_number(details, overload.WINDOW_UNITS),
        busy_share=_number(details, overload.BUSY_SHARE),
        max_streams=_number(details, MAX_STREAMS),
        overload=Overload(told) if told in set(Overload) else Overload.NONE,
    )


def reasoner_room(member: Member) -> ReasonerRoom:
    """What a reasoner's heartbeat says."""
    return ReasonerRoom(
        name=member.identity.name,
        fingerprint=member.identity.fingerprint,
        ram_bytes=_number(member.details, overload.RAM_BUDGET_BYTES),
        notes_bytes=_number(member.details, overload.NOTES_BYTES),
        questions=_number(member.details, "questions"),
        max_streams=_number(member.details, MAX_STREAMS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A stream that has its room."""

    tenant: str
    fps: float
    """What it asked for; 0: the model's own rate."""
    min_fps: float = 0.0
    """The least that its client accepts; 0: `fps`."""
    encoder: str = ""
    reasoner: str = ""
    opened_s: float = 0.0
    leaves_s: float | None = None
    """When it goes unless its client comes back; None while one is there."""
    backlog_bytes: int = 0
    """Kept for replay."""
    questions: int = 0

    def floor(self, room: EncoderRoom) -> float:
        """The share of an encoder that is kept for it.

        A stream that needs more than a whole one was let in where it was alone, and is slower than it plays:
        half of the encoder is kept for it.
        """
        share = room.share(self.min_fps or self.fps)
        return share if share <= MAX_SHARE else MAX_SHARE / 2

    def want(self, room: EncoderRoom) -> float:
        """The share that it would use."""
        return max(room.share(self.fps), self.floor(room))


def loads(
    encoders: Mapping[str, EncoderRoom], reasoners: Mapping[str, ReasonerRoom], held: list[Held]
) -> dict[str, float]:
    """How much of each service is used, 1 is all: what it measured, or what its streams are known to need."""
    found = {}
    there: defaultdict[str, list[Held]] = defaultdict(list)
    for stream in held:
        there[stream.encoder].append(stream)
    for name, room in encoders.items():
        found[name] = max(sum(_encoder_cost(stream, room) for stream in there[name]), room.busy_share)
    counts = Counter(stream.reasoner for stream in held)
    window = _window(encoders)
    for name, reasoner in reasoners.items():
        each = _reasoner_cost(reasoner, window)
        found[name] = each * counts[name] + QUESTION_LOAD * reasoner.questions
    return found


def costs(
    stream: Held, encoders: Mapping[str, EncoderRoom], reasoners: Mapping[str, ReasonerRoom]
) -> dict[str, float]:
    """What one stream adds to the `loads` of its services, by name; those that are not known count too."""
    found = {}
    if stream.encoder:
        found[stream.encoder] = _encoder_cost(stream, encoders.get(stream.encoder))
    if stream.reasoner:
        found[stream.reasoner] = _reasoner_cost(reasoners.get(stream.reasoner), _window(encoders))
    return found


def _encoder_cost(stream: Held, room: EncoderRoom | None) -> float:
    return stream.want(room) if room is not None and room.is_known else NOMINAL_LOAD


def _reasoner_cost(room: ReasonerRoom | None, window_bytes: float) -> float:
    if room is None or not window_bytes or not room.ram_bytes:
        return NOMINAL_LOAD
    return window_bytes / room.ram_bytes


def _window(encoders: Mapping[str, EncoderRoom]) -> float:
    return max((room.window_bytes for room in encoders.values()), default=0.0)


def member_rooms(
    members: list[tuple[Member, float]],
) -> tuple[dict[str, EncoderRoom], dict[str, ReasonerRoom]]:
    """The rooms of all services that take streams, by name; with each its model's own rate."""
    encoders, reasoners = {}, {}
    for member, native_fps in members:
        if not member.is_ready:
            continue
        if member.identity.role is Role.ENCODER:
            encoders[member.identity.name] = encoder_room(member, native_fps)
        else:
            reasoners[member.identity.name] = reasoner_room(member)
    return encoders, reasoners


def _number(details: Mapping[str, str], key: str) -> float:
    """A number above 0; 0 for anything else: a service that says nonsense says nothing."""
    try:
        value = float(details.get(key, "0"))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
