"""Pure. Every metric of a reasoner, and what is read from its state at a scrape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kv_transfer.metrics import METRICS as TRANSFER
from tandem.core.meters import (
    BATCH,
    STEP_S,
    TOKENS,
    TTFT_S,
    WORK_S,
    Metric,
    Sample,
    counter,
    gauge,
    histogram,
)

if TYPE_CHECKING:
    from reasoner_svc.decode.stats import EngineStats

STREAMS = gauge("tandem_reasoner_streams", "Streams whose blocks are held here.")
WATCHED = gauge("tandem_reasoner_watched_streams", "Streams of which notes are taken.")
QUESTIONS = gauge("tandem_workers_active", "Lines of decoding: open questions, and notes being written.")
LINKS = gauge("tandem_reasoner_links", "Encoders that are connected.")
BLOCKS = gauge("tandem_kv_blocks", "Blocks held: in RAM, and in any tier.", "tier")
BYTES = gauge(
    "tandem_kv_bytes",
    "Bytes of blocks: on the device, in RAM, on disk, and of notes on no disk.",
    "tier",
)
BUDGET = gauge("tandem_kv_budget_bytes", "Most bytes that a tier may take.", "tier")
INDEX = gauge("tandem_kv_index_bytes", "Bytes of the index that older blocks are chosen by.")
UNWRITTEN = gauge("tandem_disk_waiting_blocks", "Published blocks that are not on disk yet.")
DEGRADED = gauge("tandem_disk_degraded", "1 while nothing can be written to disk, else 0.")
STEP = histogram("tandem_decode_step_seconds", "One pass of the model over all questions in it.", STEP_S)
STEP_ROWS = histogram("tandem_decode_step_questions", "Questions in one pass of the model.", BATCH)
GENERATED = counter(
    "tandem_generated_tokens_total", "Tokens of questions: of the answer, or of thinking first.", "outcome"
)
CONTEXT = histogram("tandem_context_tokens", "Tokens of video and notes in view of a question.", TOKENS)
QUEUE = histogram("tandem_question_queue_seconds", "From a question's arrival here to its prefill.", TTFT_S)
PREFILL = histogram("tandem_question_prefill_seconds", "Prefill of a question, retrieval included.", TTFT_S)
DECODE = histogram("tandem_question_decode_seconds", "From a question's first token to its last.", TTFT_S)
RETRIEVE = histogram("tandem_retrieve_seconds", "Choosing and reading older blocks, all layers.", WORK_S)
LOOKUPS = counter(
    "tandem_kv_lookups_total",
    "Layers of older blocks that a question wanted: found in a tier, left out for want of time (skipped), "
    "damaged, or not held any more (missing).",
    *("tier", "outcome"),
)
DISK_READ = histogram("tandem_disk_read_seconds", "One read of layers from disk, verified.", WORK_S)
EVICTIONS = counter(
    "tandem_kv_evictions_total",
    "Blocks that left a tier: RAM for disk (demoted) or for good (dropped); the disk for its budget, a "
    "stream's quota, or their age.",
    *("tier", "reason"),
    collected=True,
)

METRICS: tuple[Metric, ...] = (
    *(STREAMS, WATCHED, QUESTIONS, LINKS, BLOCKS, BYTES, BUDGET, INDEX, UNWRITTEN, DEGRADED, STEP),
    *(STEP_ROWS, GENERATED, CONTEXT, QUEUE, PREFILL, DECODE, RETRIEVE, LOOKUPS, DISK_READ, EVICTIONS),
    *TRANSFER,
)
"""All, in the order of `docs/observability.md`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a reasoner is now, as a scrape reads it."""

    streams: int
    watched: int
    links: int
    engine: EngineStats
    blocks: int
    ram_blocks: int
    ram_bytes: int
    ram_budget: int
    notes_bytes: int
    """Of notes that are on no disk; not in `ram_bytes`."""
    disk_bytes: int
    disk_budget: int
    """0: there is no disk tier."""
    unwritten: int
    disk_is_full: bool
    demoted: int
    dropped: int
    left_disk: dict[str, int]
    """Blocks that left the disk, by reason."""


def read(state: State) -> Iterator[Sample]:
    """What is there now."""
    engine = state.engine
    yield Sample(STREAMS, state.streams)
    yield Sample(WATCHED, state.watched)
    yield Sample(QUESTIONS, engine.questions)
    yield Sample(LINKS, state.links)
    yield Sample(BLOCKS, state.ram_blocks, ("ram",))
    yield Sample(BLOCKS, state.blocks, ("any",))
    yield Sample(BYTES, engine.run_bytes + engine.tail_bytes + engine.pool_bytes, ("device",))
    yield Sample(BYTES, state.ram_bytes, ("ram",))
    yield Sample(BYTES, state.notes_bytes, ("notes",))
    yield Sample(BYTES, state.disk_bytes, ("disk",))
    yield Sample(BUDGET, state.ram_budget, ("ram",))
    yield Sample(BUDGET, state.disk_budget, ("disk",))
    yield Sample(INDEX, engine.index_bytes)
    yield Sample(UNWRITTEN, state.unwritten)
    yield Sample(DEGRADED, state.disk_is_full)
    yield Sample(EVICTIONS, state.demoted, ("ram", "demoted"))
    yield Sample(EVICTIONS, state.dropped, ("ram", "dropped"))
    for reason, count in state.left_disk.items():
        yield Sample(EVICTIONS, count, ("disk", reason))
