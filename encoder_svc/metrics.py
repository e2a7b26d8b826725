"""Pure. Every metric of an encoder, and what is read from its state at a scrape."""

from __future__ import annotations

from collections.abc import Iterator

from kv_transfer.metrics import METRICS as TRANSFER
from tandem.core.meters import BATCH, LAG_S, TOKENS, WORK_S, Metric, Sample, counter, gauge, histogram
from tandem.core.overload import Overload

STREAMS = gauge("tandem_encoder_streams", "Streams that are encoded here.")
WAITING = gauge("tandem_encoder_units_waiting", "Units (frames, or pairs of them) that wait for the model.")
LINKS = gauge("tandem_encoder_links", "Open links to reasoners.")
BATCHES = counter("tandem_encode_batches_total", "Forward passes that made blocks.", collected=True)
FAILURES = counter(
    "tandem_encode_failures_total", "Streams that ended because they could not be encoded.", collected=True
)
FRAMES = counter(
    "tandem_frames_total",
    "Frames by fate: encoded, skipped (more came than are watched), dropped (left out for want of time), "
    "refused and with which error.",
    *("outcome", "reason"),
)
OVERLOAD = gauge(
    "tandem_encoder_overload",
    "1 for what is given up now, else 0: none, rates (streams are watched at less), "
    "late (nobody accepts less, new streams are refused), gaps (frames are left "
    "out).",
    "outcome",
)
LATE = gauge("tandem_encoder_late_seconds", "How far the unit that waits longest is past its deadline.")
SLOWED = gauge("tandem_encoder_slowed_streams", "Streams that are watched at less than they asked for.")
DECODE = histogram("tandem_decode_seconds", "Work on one picture or chunk: decoded, resized.", WORK_S)
ENCODE = histogram(
    "tandem_encode_seconds", "One forward pass, vision tower and prefill, with packing of its blocks.", WORK_S
)
BATCH_FRAMES = histogram("tandem_encode_batch_frames", "Frames of one forward pass, of all streams.", BATCH)
FRAME_TOKENS = histogram("tandem_tokens_per_frame", "Tokens of a unit's block, by its frames.", TOKENS)
QUEUE = histogram("tandem_encode_queue_seconds", "Wait of a decoded unit for the model.", WORK_S)
PUBLISH = histogram(
    "tandem_frame_publish_seconds",
    "From the arrival of a unit's last media here until its block can be retrieved.",
    LAG_S,
)

METRICS: tuple[Metric, ...] = (
    *(STREAMS, WAITING, LINKS, BATCHES, FAILURES, FRAMES, DECODE, ENCODE, BATCH_FRAMES, FRAME_TOKENS),
    *(QUEUE, PUBLISH, OVERLOAD, LATE, SLOWED),
    *TRANSFER,
)
"""All, in the order of `docs/observability.md`."""


def read(
    *,
    streams: int,
    waiting: int,
    links: int,
    batches: int,
    failures: int,
    overload: Overload,
    late_s: float,
    slowed: int,
) -> Iterator[Sample]:
    """What is there now."""
    yield Sample(STREAMS, streams)
    yield Sample(WAITING, waiting)
    yield Sample(LINKS, links)
    yield Sample(BATCHES, batches)
    yield Sample(FAILURES, failures)
    for stage in Overload:
        yield Sample(OVERLOAD, float(stage is overload), (stage.value,))
    yield Sample(LATE, late_s)
    yield Sample(SLOWED, slowed)
