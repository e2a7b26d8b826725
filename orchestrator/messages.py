"""Pure. What clients are told, built from sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.access import ANYONE, Caller
from orchestrator.autoscaling import Told
from orchestrator.cluster import Cluster
from orchestrator.door import Door, NoRoom
from orchestrator.membership import Member, Role
from orchestrator.observer import Seen
from orchestrator.session import Session
from orchestrator.tokens import resume_token
from tandem.core.errors import LimitExceeded, TandemError
from tandem.wire.convert import gap_to_proto
from tandem.wire.gen.tandem.v1 import client_pb2, reasoner_pb2, types_pb2
from tandem.wire.status import error_to_proto

MAX_GAPS_TOLD = 256
"""Gaps in one progress message, the newest; an answer has all of those before it."""


def welcome_of(
    session: Session, secret: bytes, *, is_resumed: bool, caller: Caller = ANYONE
) -> client_pb2.WatchResponse:
    """The stream is open."""
    limits, terms = session.settings.limits, session.terms
    admission = terms.reason
    if not caller.is_admin:  # the reason tells of all streams
        admission = f"it begins with {terms.start_fps:g} frames per second" if terms.start_fps else ""
    return client_pb2.WatchResponse(
        welcome=client_pb2.WatchResponse.Welcome(
            stream_id=session.name,
            resume_token=resume_token(secret, session.stream_id, session.nonce),
            resumed=is_resumed or session.timeline.blocks > 0,
            next_position=session.next_position,
            model=session.model,
            sample_fps=session.sample_fps,
            limits=client_pb2.WatchResponse.Limits(
                max_message_bytes=limits.max_message_bytes,
                max_question_chars=limits.max_question_chars,
                max_open_questions=limits.max_open_questions,
                max_picture_pixels=limits.max_picture_pixels,
                resume_seconds=limits.resume_seconds,
            ),
            admission="" if is_resumed else admission,
        )
    )


def progress_of(session: Session) -> client_pb2.WatchResponse:
    """What has been watched so far, as a message."""
    return client_pb2.WatchResponse(progress=_progress(session))


class Teller:
    """Progress for one call: what the client carries goes along when it has changed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._told = b""

    def __call__(self) -> client_pb2.WatchResponse:
        """The next message."""
        message, carried = progress_of(self._session), self._session.checkpoints.carried
        if carried != self._told:
            message.progress.record = self._told = carried
        return message


def goodbye_of(session: Session) -> client_pb2.WatchResponse:
    """The last message of a call."""
    return client_pb2.WatchResponse(goodbye=client_pb2.WatchResponse.Goodbye(progress=_progress(session)))


def refusal_of(
    error: TandemError, *, position: int | None = None, question_id: str = ""
) -> client_pb2.WatchResponse:
    """Something was refused; the call goes on."""
    refusal = client_pb2.WatchResponse.Refusal(error=error_to_proto(error), question_id=question_id)
    if position is not None:
        refusal.position = position
    return client_pb2.WatchResponse(refusal=refusal)


def thought_of(thought: reasoner_pb2.WatchStreamResponse, dropped: int) -> client_pb2.WatchResponse:
    """More text of a note; `dropped` pieces before it were not sent."""
    return client_pb2.WatchResponse(
        thought=client_pb2.WatchResponse.Thought(
            worker="watcher",
            time_us=thought.range.end_us,
            text=thought.text,
            note=thought.note,
            range=thought.range,
            done=thought.done,
            failed=thought.failed,
            dropped=dropped,
        )
    )


def summary_of(
    session: Session, standing: int, now_s: float, seen: Seen | None = None
) -> client_pb2.StreamSummary:
    """One line of `tandem streams`; so many questions stand for it. `seen`: what was noticed of it."""
    summary = client_pb2.StreamSummary(
        stream_id=session.name,
        state=session.state,
        progress=_progress(session),
        encoder=session.encoder,
        reasoner=session.reasoner,
        open_questions=session.questions,
        sample_fps=session.sample_fps,
        age_s=now_s - session.opened_s,
        backlog_bytes=session.backlog.bytes,
        attached=session.outbox is not None,
        watching=session.watching.mode,
        last_note=session.last_note,
        standing_questions=standing,
        tenant=session.terms.tenant,
        epoch=session.epoch,
    )
    if seen is not None:
        summary.placed_because, summary.blocks_per_s = seen.placed_because, seen.rate()
        if seen.last_error:
            summary.last_error, summary.last_error_age_s = seen.last_error, now_s - seen.last_error_s
    return summary


def status_of(
    cluster: Cluster,
    build: types_pb2.BuildInfo,
    listeners: Iterable[str],
    starting: Iterable[tuple[str, str]],
    now_s: float,
    endings: Mapping[str, str] | None = None,
) -> client_pb2.GetStatusResponse:
    """What runs. `starting`: names and roles of services that were started and have not attached.

    `endings`: how the last process of a service ended, by its name, where that is known.
    """
    ends, loads = endings or {}, cluster.loads()
    services = [
        _service_status(cluster, member, now_s, loads.get(member.identity.name, 0.0), ends)
        for member in cluster.members
    ]
    known = {status.name for status in services if status.state != "lost"}
    by_name = {status.name: status for status in services}
    for name, role in starting:
        if name not in known:
            former = by_name.get(name) or client_pb2.ServiceStatus(name=name, role=role)
            former.state = "starting"
            former.reason = ends.get(name, former.reason)
            by_name[name] = former
    return client_pb2.GetStatusResponse(build=build, services=by_name.values(), listeners=listeners)


def told_to(caller: Caller, error: TandemError) -> TandemError:
    """The error in words that a caller may read: how much room others take is for who administers."""
    if isinstance(error, NoRoom) and not caller.is_admin:
        return LimitExceeded("there is no room for the stream now", retry_after_s=error.retry_after_s)
    return error


def seen_by(caller: Caller, status: client_pb2.GetStatusResponse) -> client_pb2.GetStatusResponse:
    """What of it a caller may know: without the right to administer whether there are services, no more."""
    if caller.is_admin:
        return status
    services = [
        client_pb2.ServiceStatus(name=each.name, role=each.role, state=each.state, model=each.model)
        for each in status.services
    ]
    decisions = [each for each in status.decisions if caller.sees(each.tenant)]
    for each in decisions:
        each.reason = ""  # it tells of all streams
    build = types_pb2.BuildInfo(version=status.build.version)
    return client_pb2.GetStatusResponse(build=build, services=services, decisions=decisions)


def decisions_of(door: Door, now_s: float) -> list[client_pb2.AdmissionDecision]:
    """The latest decisions on new streams, oldest first."""
    return [
        client_pb2.AdmissionDecision(
            stream_id=each.stream_id,
            tenant=each.tenant,
            outcome=each.outcome,
            reason=each.reason,
            age_s=now_s - each.at_s,
            retry_after_s=each.retry_after_s,
        )
        for each in door.decisions
    ]


def scaling_of(told: Mapping[Role, Told], now_s: float) -> list[client_pb2.ScalingDecision]:
    """Of each role the latest change, and why nothing is changed now."""
    found = []
    for role, each in told.items():
        for decision, at_s in ((each.last, each.last_s), (each.holds, each.holds_s)):
            if decision is not None:
                message = client_pb2.ScalingDecision(
                    role=role.value,
                    action=decision.action.value,
                    replicas=decision.replicas,
                    reason=decision.reason,
                    pod=decision.pod,
                    age_s=now_s - at_s,
                )
                found.append(message)
    return found


def _service_status(
    cluster: Cluster, member: Member, now_s: float, load: float, endings: Mapping[str, str]
) -> client_pb2.ServiceStatus:
    ending = endings.get(member.identity.name, "")
    service = cluster.service(member.identity.name)
    return client_pb2.ServiceStatus(
        name=member.identity.name,
        role=member.identity.role,
        address=member.identity.address,
        state=member.standing,
        build=service.build if service else None,
        model=service.model if service else None,
        restarts=member.restarts,
        heartbeat_age_ms=(now_s - member.seen_s) * 1000,
        streams=cluster.placed[member.identity.name],
        details=dict(member.details),
        load=load,
        reason=member.reason,
        last_loss="; ".join(part for part in (member.last_loss, ending) if part),
        last_loss_age_s=now_s - member.last_loss_s if member.last_loss else 0.0,
    )


def _progress(session: Session) -> client_pb2.WatchResponse.Progress:
    timeline = session.timeline
    return client_pb2.WatchResponse.Progress(
        received_us=timeline.received_us,
        watermark_us=timeline.watermark_us,
        # Two services say these: news of what is durable may be here before that of its publication.
        durable_watermark_us=min(timeline.durable_us or 0, timeline.watermark_us),
        lag_ms=timeline.lag_ms,
        gaps=[gap_to_proto(gap) for gap in timeline.gaps[-MAX_GAPS_TOLD:]],
        safe_position=session.checkpoints.announced.position,
        blocks=timeline.blocks,
        received_position=session.next_position,
        sample_fps=session.sample_fps,
        rate_reason=session.rate_reason,
    )
