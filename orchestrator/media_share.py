"""Shell without waiting: what running streams keep for replay stays within their tenants' quota of bytes."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable

from orchestrator.capacity import member_rooms
from orchestrator.cluster import Cluster
from orchestrator.messages import refusal_of
from orchestrator.quotas import Quotas, media_bytes
from orchestrator.session import Session
from tandem.core.errors import LimitExceeded

PERIOD_S = 0.5
"""Between two looks: a stream's bound may be older than this by so much."""


class MediaShare:
    """Bounds the backlogs of tenants with a quota of bytes. Owned by the event loop."""

    def __init__(self, cluster: Cluster, quotas: Quotas) -> None:
        self._cluster = cluster
        self._quotas = quotas
        default = quotas.default
        # Once, and not at each look: there may be 10,000 tenants.
        self._is_needed = bool(default and default.bytes) or any(
            each.bytes for each in quotas.tenants.values()
        )
        self._looked_s = float("-inf")
        self._told: weakref.WeakKeyDictionary[Session, int] = weakref.WeakKeyDictionary()
        """How much of what each stream had to give up its client was told of."""

    def look(self, sessions: Iterable[Session], now_s: float) -> None:
        """Bound the streams anew where it is time, and tell those that had to give media up."""
        if now_s - self._looked_s < PERIOD_S or not self._is_needed:
            return
        self._looked_s = now_s
        held = list(sessions)
        counts = Counter(session.terms.tenant for session in held)
        encoders, _ = member_rooms([(member, 0.0) for member in self._cluster.members])
        window = next((room.window_bytes for room in encoders.values()), 0.0)
        for session in held:
            tenant = session.terms.tenant
            bound = media_bytes(self._quotas.kept(tenant), counts[tenant], window)
            if bound is not None:
                session.limit_media(bound)
                self._tell(session, tenant, bound)

    def _tell(self, session: Session, tenant: str, bound: int) -> None:
        given_up = session.backlog.given_up
        if given_up <= self._told.get(session, 0) or bound >= session.settings.bounds.max_bytes:
            return
        words = f"media of stream {session.stream_id} became a gap: by the bytes of tenant {tenant}"
        error = LimitExceeded(f"{words} each of its streams may keep {bound}")
        # A client that is away, or has much to read still, is told later.
        if session.outbox is not None and session.outbox.offer(refusal_of(error)):
            self._told[session] = given_up
