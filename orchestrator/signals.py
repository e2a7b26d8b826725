"""Shell without waiting: what streams and questions say about how many services are needed.

A look a few seconds apart. Only streams that are fed at about the pace of time count for lag: a file that is
read as fast as it goes is behind by design.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from orchestrator.cluster import Cluster
from orchestrator.door import Door
from orchestrator.membership import Role
from orchestrator.observer import lag_us
from orchestrator.scaling_needs import Seen, Top, slope
from orchestrator.session import Session
from orchestrator.stream import State
from tandem.core.clock import Clock
from tandem.core.ids import StreamId
from tandem.core.timeline import MICROSECONDS

SLOPE_S = 30.0
"""Lag is looked at over the last so many seconds."""
LIVE_PACE = 1.25
"""Stream time that comes in a second of a live stream, at most."""


class Lags:
    """How far streams are behind, and whether that grows."""

    def __init__(self) -> None:
        self._received: dict[StreamId, tuple[float, int]] = {}
        self._worst: deque[tuple[float, float]] = deque()

    def look(self, now_s: float, sessions: Iterable[Session]) -> tuple[float, float]:
        """(seconds that nine of ten are not further behind, growth in seconds a second)."""
        found, seen = [], {}
        for session in sessions:
            if session.outbox is None or session.state not in {State.LIVE, State.RECOVERING}:
                continue
            received_us = session.timeline.received_us
            before_s, before_us = self._received.get(session.stream_id, (now_s, received_us))
            seen[session.stream_id] = now_s, received_us
            passed_s = now_s - before_s
            if passed_s > 0 and 0 < received_us - before_us <= LIVE_PACE * passed_s * MICROSECONDS:
                found.append(lag_us(session) / MICROSECONDS)
        self._received = seen
        worst_s = sorted(found)[int(0.9 * (len(found) - 1))] if found else 0.0
        self._worst.append((now_s, worst_s))
        while now_s - self._worst[0][0] > SLOPE_S:
            self._worst.popleft()
        return worst_s, slope(list(self._worst))


class Signals:
    """Of one orchestrator. Owned by the event loop."""

    def __init__(
        self,
        cluster: Cluster,
        door: Door,
        sessions: Callable[[], Iterable[Session]],
        goal_s: float,
        clock: Clock,
    ) -> None:
        """`goal_s`: in which answers should begin."""
        self._cluster, self._door, self._sessions = cluster, door, sessions
        self._goal_s, self._clock = goal_s, clock
        self._lags = Lags()

    def look(self, role: Role, replicas: int | None, top: str) -> Seen:
        """One role as it is now; `top`: name of the pod that would be removed first, empty: not known."""
        now_s = self._clock()
        # For encoders alone: another look a moment later would find that nothing came since.
        is_encoder = role is Role.ENCODER
        lag_s, lag_slope = self._lags.look(now_s, self._sessions()) if is_encoder else (0.0, 0.0)
        loads = self._cluster.loads()
        mine = [
            m for m in self._cluster.members if m.identity.role is role and m.is_live and not m.is_leaving
        ]
        refusals, refused_load = self._door.refused(role)
        answers = self._cluster.observer.answers
        return Seen(
            role=role,
            replicas=replicas,
            ready=len(mine),
            load=sum(loads.get(member.identity.name, 0.0) for member in mine),
            refusals=refusals,
            refused_load=refused_load,
            lag_s=lag_s,
            lag_slope=lag_slope,
            attainment=answers.attainment(now_s, self._goal_s) if role is Role.REASONER else None,
            top=self._top(top) if top else None,
            is_settled=not self._cluster.is_settling,
        )

    def _top(self, name: str) -> Top:
        member = next((m for m in self._cluster.members if m.identity.name == name), None)
        if member is None or not member.is_live:
            return Top(name=name, is_ready=False, streams=self._cluster.placed[name])
        # By both accounts: ours knows of streams on their way, its own of those that it still holds.
        streams = max(self._cluster.placed[name], member.streams)
        return Top(name=name, is_ready=member.is_ready, streams=streams)
