"""Shell. Writes a batch of blocks to the end of a data file: one gathering write, no copy of a payload."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.store.disk.datafile import DataFile
from reasoner_svc.store.disk.files import Buffer, Files
from reasoner_svc.store.disk.format import ALIGN_BYTES, RecordHead, aligned, encode_record
from reasoner_svc.store.disk.slots import DiskSlot, Held
from tandem.core.ids import StreamId

MAX_BUFFERS = 1000
"""The system takes 1024 in one call."""
_ZEROS = bytes(ALIGN_BYTES)


@dataclass(frozen=True, slots=True)
class Record:
    """A block ready to be written."""

    block: Block
    reps: bytes
    head: RecordHead
    lead: bytes
    """Everything before the payload."""


class Batch:
    """Records in the order of their writing."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    @property
    def total_bytes(self) -> int:
        """Bytes in a file."""
        return sum(record.head.length for record in self.records)

    @property
    def is_sink(self) -> bool:
        """It is the stream's sink, alone."""
        return len(self.records) == 1 and self.records[0].head.number == 0

    def parts(self, file_bytes: int, room: int, head_bytes: int) -> Iterator[Batch]:
        """Runs that go into one file each: the sink by itself, others as many as a file takes."""
        part: list[Record] = []
        left = room
        for record in self.records:
            length, sink = record.head.length, record.head.number == 0
            if part and (sink or length > left):
                yield Batch(part)
                part = []
            if sink:
                yield Batch([record])
                left = 0
                continue
            if not part and length > left:
                left = max(file_bytes - head_bytes, length)
            part.append(record)
            left -= length
        if part:
            yield Batch(part)


def make_batch(items: Sequence[tuple[Block, Tensor]], now_us: int) -> Batch:
    """Records of blocks and their representatives (float32, contiguous, host memory)."""
    records = []
    for block, reps in items:
        data = reps.detach().numpy().tobytes()
        head, lead = encode_record(block.header, data, now_us)
        records.append(Record(block, data, head, lead))
    return Batch(records)


def write_batch(
    system: Files, file: DataFile, batch: Batch, stream: StreamId, now_us: int
) -> tuple[list[tuple[Held, bytes]], OSError | None]:
    """Write at the file's end; returns the blocks that got in whole, and why the rest did not."""
    buffers: list[Buffer] = []
    for record in batch.records:
        payload = record.block.payload.numpy().data
        buffers += (record.lead, payload)
        padding = aligned(len(payload)) - len(payload)
        if padding:
            buffers.append(_ZEROS[:padding])
    assert file.fd is not None, file
    end, error = _write_all(system, file.fd, buffers, file.size)
    written, at = [], file.size
    for record in batch.records:
        head = record.head
        if at + head.length > end:
            break
        slot = DiskSlot(stream, file.number, at + head.payload_at, head.payload_bytes)
        held = Held(record.block.header, slot, at, at + head.length, now_us, head.reps_xxh3)
        written.append((held, record.reps))
        at += head.length
    return written, error


def _write_all(system: Files, fd: int, buffers: list[Buffer], at: int) -> tuple[int, OSError | None]:
    """Returns how far it got; a write that comes up short goes on until the system says why."""
    first = 0
    try:
        while first < len(buffers):
            count = system.pwritev(fd, buffers[first : first + MAX_BUFFERS], at)
            if count <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            at += count
            while first < len(buffers) and count >= len(buffers[first]):
                count -= len(buffers[first])
                first += 1
            if count:
                buffers[first] = memoryview(buffers[first])[count:]
    except OSError as error:
        return at, error
    return at, None
