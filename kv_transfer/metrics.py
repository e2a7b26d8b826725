"""Pure. What is measured of blocks on their way between processes; part of both ends' metrics."""

from __future__ import annotations

from tandem.core.meters import WORK_S, Metric, counter, histogram

SECONDS = histogram(
    "tandem_kv_transfer_seconds",
    "From the offer of some blocks until all are published at the other end, or will not be.",
    WORK_S,
    "outcome",
)
BYTES = counter(
    "tandem_kv_transfer_bytes_total",
    "Payload bytes of blocks that arrived whole: sent or received.",
    "outcome",
)
BLOCKS = counter(
    "tandem_kv_transfer_blocks_total",
    "Blocks offered (published, had already, failed) and received, with the error of those that failed.",
    *("outcome", "reason"),
)
CHECKSUMS = counter(
    "tandem_kv_checksum_failures_total",
    "Layers of blocks whose bytes did not match their checksum: off the wire, or from disk (tier).",
    "tier",
)

METRICS: tuple[Metric, ...] = (SECONDS, BYTES, BLOCKS, CHECKSUMS)
