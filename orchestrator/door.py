"""Shell without waiting: who is let in. Gathers what services and streams say, has it decided, remembers why.

Nothing here is held that could be forgotten to be given back: what streams have is read off the streams.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.admission import Admitted, Refused, admit, retry_after
from orchestrator.capacity import EncoderRoom, Held, ReasonerRoom, costs, loads, member_rooms
from orchestrator.cluster import Cluster
from orchestrator.crowd import Crowd
from orchestrator.expected import Expected
from orchestrator.membership import Role
from orchestrator.quotas import Cost, Quotas, check_question, check_stream
from orchestrator.session import Session
from orchestrator.stream import State
from orchestrator.terms import Terms
from tandem.core.clock import Clock
from tandem.core.errors import LimitExceeded, TandemError
from tandem.core.ids import StreamId

log = logging.getLogger(__name__)

MAX_DECISIONS = 16
_FRESH_S = 0.2
"""How long what streams have is taken to be as it was; a stream that comes or goes is seen at once."""
_KEEP = 0.9
"""What a stream that ends, or an answer, leaves of the mean of those before it."""


class NoRoom(LimitExceeded):
    """For want of room, in words that tell of all tenants: `messages.told_to` has others for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of one attempt to open a stream."""

    stream_id: str
    tenant: str
    outcome: str
    """"admitted", "degraded" or "refused"."""
    reason: str
    at_s: float
    retry_after_s: float = 0.0


class Door:
    """Owned by the event loop. `sessions` are those that are held."""

    def __init__(
        self,
        cluster: Cluster,
        quotas: Quotas,
        sessions: Callable[[], Iterable[Session]],
        clock: Clock,
        max_streams: int,
    ) -> None:
        self._max_streams = max_streams
        self._cluster = cluster
        self._quotas = quotas
        self._sessions = sessions
        self._clock = clock
        self._life_s = 0.0
        self._seen: dict[StreamId, Held] = {}
        self._seen_rooms: tuple[dict[str, EncoderRoom], dict[str, ReasonerRoom]] = {}, {}
        self._loads: dict[str, float] = {}
        self._seen_s = float("-inf")
        cluster.count = self.count
        self._answer_s = 1.0
        self._crowd = Crowd()
        self._expected = Expected(max_streams)
        self.decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS)
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How often each outcome of `Decision` came, with the code of the error of a refusal."""

    def admit(self, session: Session, tenant: str, *, is_new: bool) -> Terms:
        """The terms for a stream that is not held yet. Raises what the client is told.

        One that a former orchestrator held (`is_new` is false) was let in then, and keeps its room, whatever
        has become of its tenant's quota meanwhile.
        """
        try:
            self._check_count(tenant)
            if not is_new:
                return Terms(tenant=tenant, weight=self._quotas.kept(tenant).weight)
            return self._admit(session, tenant)
        except TandemError as error:
            self.outcomes["refused", error.code.value] += 1
            self._note(session, tenant, "refused", error.message, error.retry_after_s or 0.0)
            raise

    def check_question(self, session: Session) -> None:
        """Raises `LimitExceeded` unless the stream's tenant may have one more question open."""
        tenant = session.terms.tenant
        quota = self._quotas.tenants.get(tenant, self._quotas.default)
        if quota is not None and quota.open_questions:
            count = sum(each.questions for each in self._sessions() if each.terms.tenant == tenant)
            check_question(tenant, quota, count, self._answer_s)

    def answered(self, took_s: float) -> None:
        """An answer ended."""
        self._answer_s = self._answer_s * _KEEP + took_s * (1 - _KEEP)

    def left(self, session: Session) -> None:
        """A stream is over."""
        self._seen_s = float("-inf")
        lasted_s = self._clock() - session.opened_s
        self._life_s = self._life_s * _KEEP + lasted_s * (1 - _KEEP) if self._life_s else lasted_s

    def loads(self) -> Mapping[str, float]:
        """How much of each service is used; 1 is all of it."""
        self._held()
        return self._loads

    def count(self, session: Session) -> None:
        """A stream was given another place: the next one reckons with it.

        Many may be in one moment, when their service is lost: for each of them loads are mended, not summed
        up over all of them.
        """
        if self._clock() - self._seen_s <= _FRESH_S:
            self._count(session.stream_id, self._as_held(session, session.terms.tenant))

    def _check_count(self, tenant: str) -> None:
        count = sum(1 for _ in self._sessions())
        if count >= self._max_streams:
            frees = [(1.0, stream) for stream in self._held().values()]
            wait_s = retry_after(1.0, frees, now_s=self._clock(), life_s=self._life_s)
            raise self._refusal(tenant, f"{count} streams are open, no more fit", wait_s)

    def _admit(self, session: Session, tenant: str) -> Terms:
        now_s, quota = self._clock(), self._quotas.of(tenant)
        encoders, reasoners = self._rooms()
        held, wish = list(self._held().values()), self._as_held(session, tenant)
        # All encoders of one cluster run one model, as a rule: what a stream counts for is the same at any.
        room = next(iter(encoders.values()), None)
        mine = [(_cost(each, room), each) for each in held if each.tenant == tenant]
        check_stream(tenant, quota, _cost(wish, room), mine, now_s=now_s, life_s=self._life_s)
        found = admit(wish, encoders.values(), reasoners.values(), held, now_s=now_s, life_s=self._life_s)
        if isinstance(found, Refused):
            error = self._refusal(tenant, f"no room for the stream: {found.reason}", found.retry_after_s)
            self._expected.refuse(session.stream_id, wish, found.lacks, now_s + (error.retry_after_s or 0.0))
            raise error
        self._crowd.admit(tenant)
        self._expected.admit(session.stream_id)
        outcome = "degraded" if found.is_degraded else "admitted"
        self.outcomes[outcome, ""] += 1
        self._note(session, tenant, outcome, found.reason, 0.0)
        self._count(session.stream_id, replace(wish, encoder=found.encoder, reasoner=found.reasoner))
        return _terms(found, tenant, quota.weight)

    def _refusal(self, tenant: str, why: str, wait_s: float) -> NoRoom:
        """For want of room; refusals by a quota are not counted here, they are the tenant's own."""
        wait_s += self._crowd.refuse(tenant, self._clock())
        return NoRoom(why, retry_after_s=wait_s)

    def refused(self, role: Role) -> tuple[int, float]:
        """How many are expected again who found no room at this role, and what they would add to its load."""
        return self._expected.at(role, self._clock(), *self._seen_rooms)

    def _rooms(self) -> tuple[dict[str, EncoderRoom], dict[str, ReasonerRoom]]:
        members = []
        for member in self._cluster.members:
            service = self._cluster.service(member.identity.name)
            members.append((member, service.model.native_fps if service else 0.0))
        return member_rooms(members)

    def _held(self) -> Mapping[StreamId, Held]:
        now_s = self._clock()
        if now_s - self._seen_s > _FRESH_S:
            self._seen_s = now_s
            self._seen = {
                session.stream_id: self._as_held(session, session.terms.tenant)
                for session in self._sessions()
                if session.state is not State.CLOSED
            }
            self._seen_rooms = self._rooms()
            self._loads = loads(*self._seen_rooms, list(self._seen.values()))
        return self._seen

    def _count(self, stream_id: StreamId, held: Held) -> None:
        """Mend what was seen last. An encoder that measures more than it needs is taken for busier still."""
        former = self._seen.get(stream_id)
        if former is not None:
            for name, share in costs(former, *self._seen_rooms).items():
                self._loads[name] = max(self._loads.get(name, 0.0) - share, 0.0)
        for name, share in costs(held, *self._seen_rooms).items():
            self._loads[name] = self._loads.get(name, 0.0) + share
        self._seen[stream_id] = held

    def _as_held(self, session: Session, tenant: str) -> Held:
        alone_s = session.alone_since_s
        resume_s = session.settings.limits.resume_seconds
        # An ended stream is kept for questions: its encoder has nothing to do any more.
        is_encoding = session.state is not State.ENDED
        # Not yet there, and on its way: whoever is placed next finds it where it will be.
        encoder, reasoner = session.going_to
        return Held(
            tenant=tenant,
            fps=session.media.sample_fps,
            min_fps=session.media.min_fps,
            encoder=(encoder or session.encoder or session.terms.encoder) if is_encoding else "",
            reasoner=reasoner or session.reasoner or session.terms.reasoner,
            opened_s=session.opened_s,
            leaves_s=None if alone_s is None else alone_s + resume_s,
            backlog_bytes=session.backlog.bytes,
            questions=session.questions,
        )

    def _note(self, session: Session, tenant: str, outcome: str, reason: str, retry_after_s: float) -> None:
        level = logging.WARNING if outcome == "refused" else logging.INFO
        log.log(level, "stream %s of %s %s: %s", session.stream_id, tenant, outcome, reason)
        self.decisions.append(
            Decision(
                stream_id=session.name,
                tenant=tenant,
                outcome=outcome,
                reason=reason,
                at_s=self._clock(),
                retry_after_s=retry_after_s,
            )
        )


def _terms(found: Admitted, tenant: str, weight: float) -> Terms:
    return Terms(
        tenant=tenant,
        weight=weight,
        start_fps=found.fps,
        encoder=found.encoder,
        reasoner=found.reasoner,
        reason=found.reason,
    )


def _cost(stream: Held, room: EncoderRoom | None) -> Cost:
    if room is None:
        return Cost(units_per_second=stream.fps, bytes=stream.backlog_bytes)
    return Cost(
        units_per_second=(stream.fps or room.native_fps) / room.frames_per_unit,
        bytes=stream.backlog_bytes + room.window_bytes,
    )
