"""Pure. A block's row in the catalogue, as bytes: made and read many thousand times, so packed, not named.

A row carries its own checksum, because an embedded database does not notice a flipped bit in a value. What
rows have in common (layout, fingerprint, geometries, the stream's id) is shared between the headers made of
them: a stream may have a hundred thousand.
"""

from __future__ import annotations

import struct

import xxhash

from kv_transfer.header import HeaderCorrupt
from reasoner_svc.store.disk.slots import DiskSlot, Held, Identity
from tandem.core.blocks import EMBEDDER_DIGITS, BlockGeometry, BlockHeader, BlockKey, BlockKind, Codec
from tandem.core.timeline import TimeRange

_FIXED = struct.Struct("<QqqIQQQqQBBHQ5I")
_CODECS = tuple(Codec)
"""By the number in a row; new ones are appended."""
_CHECKSUM = struct.Struct("<Q")
_KINDS = {int(kind): kind for kind in BlockKind}


def encode_row(held: Held) -> bytes:
    """The row of a block."""
    header, geometry = held.header, held.header.geometry
    body = _FIXED.pack(
        header.key.number,
        header.time.start_us,
        header.time.end_us,
        held.slot.file,
        held.record_start,
        held.slot.start,
        held.record_end,
        held.written_us,
        held.reps_xxh3,
        header.kind,
        _CODECS.index(header.codec),
        len(header.embedding),
        int(header.embedder or "0", 16),
        geometry.text_before,
        geometry.grid_t,
        geometry.grid_h,
        geometry.grid_w,
        geometry.text_after,
    )
    body += struct.pack(f"<{len(header.layer_checksums)}Q", *header.layer_checksums) + header.embedding
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def row_times(row: bytes) -> tuple[int, TimeRange, int]:
    """Number, time and file of a row of any model. Raises HeaderCorrupt."""
    _check(row)
    number, start_us, end_us, file, *_ = _FIXED.unpack_from(row)
    return number, TimeRange(start_us, end_us), file


class Headers:
    """Makes headers that share what they have in common."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._row = struct.Struct(f"{_FIXED.format}{identity.layout.layers}Q")
        self._geometries: dict[tuple[int, ...], BlockGeometry] = {}
        self._lengths: dict[tuple[BlockGeometry, Codec], int] = {}

    def from_row(self, row: bytes, reps: bytes) -> Held:
        """A block from its row. Raises HeaderCorrupt when row or representatives are damaged."""
        identity = self._identity
        if len(row) < self._row.size + _CHECKSUM.size:
            raise HeaderCorrupt(f"a row of {len(row)} bytes")
        _check(row)
        fields = self._row.unpack_from(row)
        embedding = row[self._row.size : -_CHECKSUM.size]
        number, start_us, end_us, file, record_start, payload_start, record_end, written_us, reps_xxh3 = (
            fields[:9]
        )
        if len(reps) != identity.reps_bytes or xxhash.xxh3_64_intdigest(reps) != reps_xxh3:
            raise HeaderCorrupt(f"the representatives of block {number} are damaged in the catalogue")
        kind = _KINDS.get(fields[9])
        codec = _CODECS[fields[10]] if fields[10] < len(_CODECS) else None
        if kind is None or codec is None or start_us > end_us or len(embedding) != fields[11]:
            raise HeaderCorrupt(f"the row of block {number} describes an impossible block")
        geometry = self._geometry(fields[13:18])
        header = BlockHeader(
            key=BlockKey(identity.stream, number),
            kind=kind,
            geometry=geometry,
            layout=identity.layout,
            fingerprint=identity.fingerprint,
            time=TimeRange(start_us, end_us),
            layer_checksums=fields[18:],
            embedding=embedding,
            embedder=f"{fields[12]:0{EMBEDDER_DIGITS}x}" if embedding else "",
            codec=codec,
        )
        slot = DiskSlot(identity.stream, file, payload_start, self._length(geometry, codec))
        return Held(header, slot, record_start, record_end, written_us, reps_xxh3)

    def shared(self, header: BlockHeader) -> BlockHeader:
        """The same header, made of shared parts. It must be of this identity."""
        identity, g = self._identity, header.geometry
        geometry = self._geometry((g.text_before, g.grid_t, g.grid_h, g.grid_w, g.text_after))
        return BlockHeader(
            key=BlockKey(identity.stream, header.key.number),
            kind=header.kind,
            geometry=geometry,
            layout=identity.layout,
            fingerprint=identity.fingerprint,
            time=header.time,
            layer_checksums=header.layer_checksums,
            embedding=header.embedding,
            embedder=header.embedder,
            codec=header.codec,
        )

    def _length(self, geometry: BlockGeometry, codec: Codec) -> int:
        key = geometry, codec
        if key not in self._lengths:
            self._lengths[key] = self._identity.layout.block_bytes(geometry.tokens, codec)
        return self._lengths[key]

    def _geometry(self, numbers: tuple[int, ...]) -> BlockGeometry:
        found = self._geometries.get(numbers)
        if found is None:
            before, grid_t, grid_h, grid_w, after = numbers
            found = BlockGeometry(
                text_before=before, grid_t=grid_t, grid_h=grid_h, grid_w=grid_w, text_after=after
            )
            self._geometries[numbers] = found
        return found


def _check(row: bytes) -> None:
    if len(row) < _FIXED.size + _CHECKSUM.size:
        raise HeaderCorrupt(f"a row of {len(row)} bytes")
    if _CHECKSUM.unpack_from(row, len(row) - 8)[0] != xxhash.xxh3_64_intdigest(memoryview(row)[:-8]):
        raise HeaderCorrupt("a row of the catalogue is damaged")
