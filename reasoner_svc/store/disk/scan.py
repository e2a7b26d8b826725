"""Shell. Reads a data file from some place to its end: which whole records are there.

For what no catalogue vouches for: everything is checked, every layer of every payload. After a damaged
record the search goes on at the next one, so that one flipped bit does not take the rest of the file along.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import xxhash

from kv_transfer.header import HeaderInvalid, decode_header
from reasoner_svc.store.disk.format import (
    ALIGN_BYTES,
    FILE_HEAD_BYTES,
    PREFIX_BYTES,
    RECORD_MAGIC,
    FileHead,
    RecordHead,
    decode_file_head,
    decode_record_head,
)
from reasoner_svc.store.disk.rows import Headers
from reasoner_svc.store.disk.slots import DiskSlot, Held, Identity, Lost
from tandem.core.blocks import BlockHeader
from tandem.core.errors import DataLost, Incompatible

_CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class Scan:
    """What lies in a part of a file."""

    found: list[tuple[Held, bytes]] = field(default_factory=list)
    """Whole records with their representatives, in the file's order."""
    lost: list[Lost] = field(default_factory=list)
    """Records whose number could still be read, but which are damaged or cut off."""
    end: int = 0
    """End of the last whole record (or the place where the scan began)."""
    holed: bool = False
    """Something damaged lies before `end`."""


def read_file_head(fd: int) -> FileHead:
    """The head of an open file. Raises HeaderCorrupt, HeaderUnsupported."""
    return decode_file_head(os.pread(fd, FILE_HEAD_BYTES, 0))


def scan_file(fd: int, file: int, start: int, identity: Identity, headers: Headers) -> Scan:
    """Look at everything from `start` to the end of the file. Raises OSError only when it has no length."""
    size, at, scan = os.fstat(fd).st_size, start, Scan(end=start)
    while at + PREFIX_BYTES <= size:
        head: RecordHead | None = None
        header: BlockHeader | None = None
        try:
            head = decode_record_head(os.pread(fd, PREFIX_BYTES, at))
            header = _read_header(fd, at, head, identity)
            reps = _read_checked(fd, at, head, header, size)
        except (DataLost, Incompatible, HeaderInvalid, OSError) as error:
            if head is not None:
                time = header.time if header is not None else None
                scan.lost.append(Lost(head.number, head.number + 1, time, str(error)))
            following = at + head.length if head is not None else _next_record(fd, at + ALIGN_BYTES, size)
            if following is None:
                break
            at = following
            continue
        held = Held(
            headers.shared(header),
            DiskSlot(identity.stream, file, at + head.payload_at, head.payload_bytes),
            at,
            at + head.length,
            head.written_us,
            head.reps_xxh3,
        )
        scan.holed |= scan.end != at
        scan.found.append((held, reps))
        at = scan.end = held.record_end
    return scan


def _read_header(fd: int, at: int, head: RecordHead, identity: Identity) -> BlockHeader:
    header, taken = decode_header(os.pread(fd, head.header_bytes, at + PREFIX_BYTES))
    if header.key.stream != identity.stream:
        raise Incompatible(f"a record of stream {header.key.stream!r} in a file of {identity.stream!r}")
    if header.fingerprint != identity.fingerprint or header.layout != identity.layout:
        raise Incompatible("a record of another model")
    if (taken, header.key.number, header.payload_bytes, identity.reps_bytes) != (
        head.header_bytes,
        head.number,
        head.payload_bytes,
        head.reps_bytes,
    ):
        raise DataLost("the record's prefix and the block's header disagree")
    return header


def _read_checked(fd: int, at: int, head: RecordHead, header: BlockHeader, size: int) -> bytes:
    """The representatives, after these and the payload were found whole."""
    if at + head.length > size:
        raise DataLost(f"block {head.number} was not completely written")
    reps = os.pread(fd, head.reps_bytes, at + PREFIX_BYTES + head.header_bytes)
    if xxhash.xxh3_64_intdigest(reps) != head.reps_xxh3:
        raise DataLost(f"the representatives of block {head.number} are damaged")
    length = header.layer_bytes
    for layer, expected in enumerate(header.layer_checksums):
        data = os.pread(fd, length, at + head.payload_at + layer * length)
        if xxhash.xxh3_64_intdigest(data) != expected:
            raise DataLost(f"layer {layer} of block {head.number} is damaged")
    return reps


def _next_record(fd: int, start: int, size: int) -> int | None:
    """The next place where a record's prefix is whole."""
    at = start
    while at + PREFIX_BYTES <= size:
        try:
            chunk = os.pread(fd, _CHUNK_BYTES + PREFIX_BYTES, at)
        except OSError:
            at += _CHUNK_BYTES
            continue
        if not chunk:
            return None
        found = chunk.find(RECORD_MAGIC)
        while 0 <= found < _CHUNK_BYTES:
            if found % ALIGN_BYTES == 0 and _is_record(chunk[found : found + PREFIX_BYTES]):
                return at + found
            found = chunk.find(RECORD_MAGIC, found + 1)
        at += _CHUNK_BYTES
    return None


def _is_record(data: bytes) -> bool:
    try:
        decode_record_head(data)
    except (DataLost, Incompatible):
        return False
    return True
