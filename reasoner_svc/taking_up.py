"""Shell. A stream that lies on disk, taken up by a reasoner that did not watch it."""

from __future__ import annotations

from reasoner_svc.runs import Runs
from reasoner_svc.store.spill import TakenUp
from reasoner_svc.store.store import BlockStore
from reasoner_svc.streams import StreamRecord
from reasoner_svc.view.memory import Row
from tandem.core.blocks import BlockKind


def take_up(record: StreamRecord, found: TakenUp, store: BlockStore, runs: Runs) -> None:
    """Make what lies on disk of a stream visible: blocks, gaps, progress, and what its run begins with."""
    headers, slots = found.recovered.headers, found.recovered.slots
    for header, slot in zip(headers, slots, strict=True):
        store.adopt(header, slot)
        record.show(header)
    for lost in found.recovered.missing:
        if lost.time is not None:
            record.miss(lost.time)
    if found.lost is not None:
        record.miss(found.lost)
    record.durable_us = record.watermark_us
    if not headers:  # Nothing of it can be used: it begins anew, behind the gap.
        return
    record.frontier.resume(max(headers[-1].key.number, found.recovered.durable) + 1)
    fed = {block.key.number for block in found.recent}
    rows = [
        Row(header, representatives)
        for header, representatives in zip(headers, found.recovered.representatives, strict=True)
        if header.kind is BlockKind.VISUAL and header.key.number not in fed
    ]
    for block in found.recent:
        if block.header.kind is BlockKind.SINK:
            runs.feed(record.run, block, lambda: None)
    runs.remember(record.run, rows)
    for block in found.recent:
        if block.header.kind is not BlockKind.SINK:
            runs.feed(record.run, block, lambda: None)
