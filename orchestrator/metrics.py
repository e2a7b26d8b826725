"""Pure. Every metric of an orchestrator, and what is read from its state at a scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.membership import Member, Role, Standing
from orchestrator.stream import State
from tandem.core.meters import (
    LAG_S,
    REPAIR_S,
    STEP_S,
    TTFT_S,
    Metric,
    Sample,
    counter,
    gauge,
    histogram,
)

if TYPE_CHECKING:
    from orchestrator.session import Session

STREAMS = gauge("tandem_streams_active", "Streams held, by state.", "outcome")
ATTACHED = gauge("tandem_streams_attached", "Streams that a client feeds now.")
OPENS = counter(
    "tandem_stream_opens_total",
    "Calls that open or resume a stream: new, resumed or refused, and with which error.",
    *("outcome", "reason"),
)
CLOSES = counter(
    "tandem_stream_closes_total",
    "Streams that are over: closed in order, or failed and with which error.",
    *("outcome", "reason"),
)
FRAMES = counter(
    "tandem_frames_total",
    "Frames by fate. Here: pictures received or refused at the front door, and the frames that gaps "
    "cost at the rate that is watched. At an encoder: encoded, skipped by sampling, dropped, refused.",
    *("outcome", "reason"),
)
MEDIA_BYTES = counter("tandem_media_bytes_total", "Bytes of media received, pictures and chunks.")
BLOCKS = counter("tandem_blocks_published_total", "Visual blocks published, replays not counted again.")
GAPS = counter("tandem_gap_seconds_total", "Stream time that was not watched, or is lost.", "reason")
LAG = histogram(
    "tandem_frame_lag_seconds",
    "How far what is published is behind what was received: every second, of every stream that is fed.",
    LAG_S,
)
BACKLOG = gauge("tandem_backlog_bytes", "Media kept for replay, of all streams.")
SEND_QUEUE = gauge("tandem_send_queue_bytes", "Answers and thoughts that clients have not read.")
SLOW_READERS = counter("tandem_slow_readers_total", "Calls that ended because the client did not read.")
REJECTIONS = counter(
    "tandem_admission_rejections_total",
    "What was refused: a stream, a question, or a standing one (outcome), with which error.",
    *("outcome", "reason"),
)
DECISIONS = counter(
    "tandem_admission_decisions_total",
    "Decisions on new streams: admitted, degraded (let in at less than asked for), or refused and with which "
    "error.",
    *("outcome", "reason"),
    collected=True,
)
SLOWED = gauge("tandem_streams_slowed", "Streams that are watched at less than their clients asked for.")
OPEN_QUESTIONS = gauge("tandem_questions_open", "Questions that are being answered.")
QUESTIONS = counter(
    "tandem_questions_total",
    "Questions that were let in and are over, by how the answer ended and with which error.",
    *("outcome", "reason"),
)
TTFT = histogram(
    "tandem_time_to_first_token_seconds", "From a question's arrival to the first text of its answer.", TTFT_S
)
TTFTH = histogram(
    "tandem_time_to_first_thought_seconds", "From a question's arrival to the first thought on it.", TTFT_S
)
ITL = histogram("tandem_inter_token_latency_seconds", "Between two pieces of text of one answer.", STEP_S)
DURATION = histogram("tandem_question_duration_seconds", "From arrival to the final record.", TTFT_S)
WAIT = histogram(
    "tandem_question_wait_seconds", "Of it, the wait for the frames before the question.", TTFT_S
)
STALENESS = histogram(
    "tandem_answer_staleness_seconds",
    "Stream time before a question that its answer did not see, as it was not published yet.",
    LAG_S,
)
SERVICES = gauge("tandem_services", "Encoders and reasoners known, by state.", "role", "outcome")
LEASES = counter("tandem_leases_expired_total", "Services lost because they were silent.", "role")
RESTARTS = counter("tandem_service_restarts_total", "Services that came back as a new process.", "role")
PLACEMENTS = counter(
    "tandem_placements_total", "Streams placed: for the first time, again, or on another service.", "outcome"
)
BREAKS = counter(
    "tandem_placement_breaks_total",
    "Placements that broke: the encoder or reasoner was gone, or a call to them failed, with which error.",
    "reason",
)
RECOVERY = histogram(
    "tandem_recovery_seconds",
    "From the loss of a placement until the stream is encoded again, by what was replaced: encoder, "
    "reasoner, both, or only the link between them.",
    REPAIR_S,
    "role",
)

LEADS = gauge("tandem_leader", "1 while this orchestrator leads, else 0; without an election always 1.")
REPLICAS = gauge("tandem_replicas_wanted", "Pods that there should be of a role, on Kubernetes.", "role")
SCALINGS = counter(
    "tandem_scaling_decisions_total",
    "Looks at the number of pods, by what was decided: hold, up, drain, undo or down.",
    *("role", "outcome"),
    collected=True,
)

METRICS: tuple[Metric, ...] = (
    *(STREAMS, ATTACHED, OPENS, CLOSES, FRAMES, MEDIA_BYTES, BLOCKS, GAPS, LAG, BACKLOG, SEND_QUEUE),
    *(SLOW_READERS, REJECTIONS, OPEN_QUESTIONS, QUESTIONS, TTFT, TTFTH, ITL, DURATION, WAIT, STALENESS),
    *(SERVICES, LEASES, RESTARTS, PLACEMENTS, BREAKS, RECOVERY, DECISIONS, SLOWED),
    *(LEADS, REPLICAS, SCALINGS),
)
"""All, in the order of `docs/observability.md`."""


def read_pods(
    *, leads: bool, replicas: Mapping[Role, int], scalings: Mapping[tuple[str, str], int]
) -> Iterator[Sample]:
    """Who leads, and what is known of pods; `scalings`: how often each (role, action) was decided."""
    yield Sample(LEADS, float(leads))
    for role, count in replicas.items():
        yield Sample(REPLICAS, count, (role.value,))
    for labels, count in scalings.items():
        yield Sample(SCALINGS, count, labels)


def read(
    sessions: Iterable[Session], members: Iterable[Member], decisions: Mapping[tuple[str, str], int]
) -> Iterator[Sample]:
    """What is there now; `decisions`: how often each (outcome, reason) came of new streams."""
    held = [session for session in sessions if session.state is not State.CLOSED]
    states = Counter(session.state for session in held)
    for state in State:
        if state is not State.CLOSED:
            yield Sample(STREAMS, states[state], (state.value,))
    yield Sample(ATTACHED, sum(session.outbox is not None for session in held))
    yield Sample(BACKLOG, sum(session.backlog.bytes for session in held))
    yield Sample(SEND_QUEUE, sum(s.outbox.bytes for s in held if s.outbox is not None))
    yield Sample(OPEN_QUESTIONS, sum(session.questions for session in held))
    services = Counter((member.identity.role, member.standing) for member in members)
    for role in Role:
        for standing in Standing:
            yield Sample(SERVICES, services[role, standing], (role.value, standing.value))
    yield Sample(SLOWED, sum(session.state is State.LIVE and bool(session.rate_reason) for session in held))
    for (outcome, reason), count in decisions.items():
        yield Sample(DECISIONS, count, (outcome, reason))
