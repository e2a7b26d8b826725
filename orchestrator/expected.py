"""Pure. Streams for which there was no room and that are expected again: what more services would be for.

Ids are the clients' word and most are made anew at each attempt, so each refusal counts for as long as its
client was told to wait for room, and a little longer: a client that keeps to it counts about once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.capacity import EncoderRoom, Held, ReasonerRoom, costs
from orchestrator.membership import Role
from tandem.core.ids import StreamId

GRACE_S = 1.0
"""How long after its time a stream is still expected."""


@dataclass(slots=True)
class Expected:
    """Of one orchestrator."""

    most: int
    """Streams that are remembered: more would not be let in however many services there were."""
    _refused: dict[StreamId, tuple[float, Held, Role]] = field(default_factory=dict)
    """Until when, and more of which would have helped; the last refused stream comes last."""

    def refuse(self, stream_id: StreamId, wish: Held, lacks: Role, comes_s: float) -> None:
        """A stream found no room at a role, and should come again at `comes_s`."""
        self._refused.pop(stream_id, None)
        self._refused[stream_id] = comes_s + GRACE_S, wish, lacks
        while len(self._refused) > self.most:
            del self._refused[next(iter(self._refused))]

    def admit(self, stream_id: StreamId) -> None:
        """It found room."""
        self._refused.pop(stream_id, None)

    def at(
        self,
        role: Role,
        now_s: float,
        encoders: Mapping[str, EncoderRoom],
        reasoners: Mapping[str, ReasonerRoom],
    ) -> tuple[int, float]:
        """How many wait for room at a role, and what they would add to its load."""
        self._refused = {it: kept for it, kept in self._refused.items() if kept[0] > now_s}
        waiting = [held for _, held, lacks in self._refused.values() if lacks is role]
        is_encoder = role is Role.ENCODER
        name = next(iter(encoders if is_encoder else reasoners), "?")
        total = 0.0
        for held in waiting:
            there = replace(held, encoder=name if is_encoder else "", reasoner="" if is_encoder else name)
            total += costs(there, encoders, reasoners)[name]
        return len(waiting), total
