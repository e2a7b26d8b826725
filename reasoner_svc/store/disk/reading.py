"""Shell. Reads payloads and single layers from data files, every byte of them verified. For many threads.

Many small pieces are read as few large ones, straight into the buffers of the readers. What the page cache
has is read at once; for the rest the kernel is told of all ranges first, so that the device works on them
together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import xxhash
from torch import Tensor

from kv_transfer.block import BlockCorrupt
from reasoner_svc.store.disk.coalesce import Piece, coalesce
from reasoner_svc.store.disk.handles import Handles
from reasoner_svc.store.disk.slots import DiskSlot
from tandem.core.blocks import BlockHeader
from tandem.core.errors import DataLost, InvalidInput, TandemError

Want = tuple[DiskSlot, BlockHeader]
GAP_BYTES = 32 * 1024
"""Reading over a smaller gap costs less than a second request."""
MAX_RUN_BYTES = 16 * 1024 * 1024
MAX_PIECES = 500
"""The system takes 1024 buffers, and there may be a gap before each piece."""
_HASH_BYTES = 512 * 1024
"""Bytes are hashed in pieces that are still in the processor's cache when they have been read."""


class DiskReader:
    """Reads what `Handles` lets it."""

    def __init__(self, handles: Handles, gap_bytes: int = GAP_BYTES) -> None:
        self._handles = handles
        self._gap_bytes = gap_bytes
        self._scratch = memoryview(bytearray(max(1, gap_bytes)))
        """Where the bytes of gaps go; nobody looks at them."""

    def read(
        self, slot: DiskSlot, header: BlockHeader, layers: range | None = None, out: Tensor | None = None
    ) -> Tensor:
        """The bytes of some layers (all by default), verified, in `out` or in new memory.

        Raises BlockCorrupt (they are not what was written), DataLost (they are not there).
        """
        _check_want(slot, header)
        layers = range(header.layout.layers) if layers is None else layers
        length = header.layer_bytes
        if layers.step != 1 or not 0 <= layers.start <= layers.stop <= header.layout.layers:
            raise InvalidInput(f"{layers} of a block with {header.layout.layers} layers")
        result = _buffer(length * len(layers), out)
        bytes_of = result.numpy().data
        handle = self._handles.take(slot.stream, slot.file)
        try:
            digests = _read_hashed(handle.fd, bytes_of, slot.start + layers.start * length, length)
        except OSError as error:
            raise DataLost(f"block {header.key} cannot be read: {error}") from error
        finally:
            self._handles.give(handle)
        handle.check()
        if digests != list(header.layer_checksums[layers.start : layers.stop]):
            pairs = zip(layers, digests, strict=True)
            wrong = tuple(layer for layer, digest in pairs if digest != header.layer_checksums[layer])
            raise BlockCorrupt(f"block {header.key} is damaged on disk in layers {list(wrong)}", wrong)
        return result

    def read_layer_many(
        self, wants: Sequence[Want], layer: int, out: Tensor | None = None
    ) -> list[Tensor | TandemError]:
        """One layer of many blocks, each verified: its bytes, or the error that `read` would have raised.

        The results lie one after another in `out` (or in new memory), in the order of `wants`.
        """
        pieces = _pieces(wants, layer)
        result = _buffer(sum(piece.length for piece in pieces), out)
        starts, at = [], 0
        for piece in pieces:
            starts.append(at)
            at += piece.length
        bytes_of = result.numpy().data
        parts = [bytes_of[start : start + piece.length] for start, piece in zip(starts, pieces, strict=True)]
        errors: dict[int, TandemError] = {}
        runs = coalesce(pieces, self._gap_bytes, MAX_RUN_BYTES, MAX_PIECES)
        cold: Sequence[Sequence[Piece]] = ()
        for index, run in enumerate(runs):
            if not self._read_run(run, parts, errors, os.RWF_NOWAIT):
                cold = runs[index:]  # Some of them may be cached: asking each costs more than it saves.
                break
        if len(cold) > 1:
            self._will_need(cold)
        for late in cold:
            self._read_run(late, parts, errors, 0)
        for index, (_, header) in enumerate(wants):
            if (
                index not in errors
                and xxhash.xxh3_64_intdigest(parts[index]) != header.layer_checksums[layer]
            ):
                message = f"block {header.key} is damaged on disk in layer {layer}"
                errors[index] = BlockCorrupt(message, (layer,))
        return [
            errors[index] if index in errors else result[starts[index] : starts[index] + piece.length]
            for index, piece in enumerate(pieces)
        ]

    def will_need(self, wants: Sequence[Want], layer: int) -> None:
        """Ask the kernel to read one layer of these blocks ahead; never fails."""
        self._will_need(coalesce(_pieces(wants, layer), self._gap_bytes, MAX_RUN_BYTES, MAX_PIECES))

    def _will_need(self, runs: Sequence[Sequence[Piece]]) -> None:
        for run in runs:
            start, end = run[0].start, run[-1].start + run[-1].length
            try:
                with self._handles.pinned(run[0].stream, run[0].file) as fd:
                    os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_WILLNEED)
            except (TandemError, OSError):
                continue  # Only advice: the read itself will say what is wrong.

    def _read_run(
        self, run: Sequence[Piece], parts: Sequence[memoryview], errors: dict[int, TandemError], flags: int
    ) -> bool:
        """Fill the parts of a run; False when `flags` forbid to wait for the device and that is needed."""
        buffers, at = [], run[0].start
        for piece in run:
            if piece.start > at:
                buffers.append(self._scratch[: piece.start - at])
            buffers.append(parts[piece.want])
            at = piece.start + piece.length
        try:
            with self._handles.pinned(run[0].stream, run[0].file) as fd:
                if flags:
                    return _read_now(fd, buffers, run[0].start, at - run[0].start, flags)
                if len(run) == 1:
                    _read_full(fd, buffers[0], at - run[0].length)
                elif os.preadv(fd, buffers, run[0].start) != at - run[0].start:
                    for piece in run:  # Cut short: find out whose bytes are there.
                        self._read_alone(fd, piece, parts, errors)
        except TandemError as error:
            errors.update({piece.want: error for piece in run})
        except OSError:
            self._read_apart(run, parts, errors)
        return True

    def _read_apart(
        self, run: Sequence[Piece], parts: Sequence[memoryview], errors: dict[int, TandemError]
    ) -> None:
        """One bad place must not take its neighbours along."""
        for piece in run:
            try:
                with self._handles.pinned(piece.stream, piece.file) as fd:
                    self._read_alone(fd, piece, parts, errors)
            except TandemError as error:
                errors[piece.want] = error

    @staticmethod
    def _read_alone(
        fd: int, piece: Piece, parts: Sequence[memoryview], errors: dict[int, TandemError]
    ) -> None:
        try:
            _read_full(fd, parts[piece.want], piece.start)
        except (OSError, DataLost) as error:
            errors[piece.want] = error if isinstance(error, DataLost) else _unreadable(piece, error)


def _read_now(fd: int, buffers: list[memoryview], start: int, length: int, flags: int) -> bool:
    try:
        return os.preadv(fd, buffers, start, flags) == length
    except OSError:  # Not in the page cache, or a file system that cannot tell: read it the usual way.
        return False


def _read_full(fd: int, part: memoryview, start: int) -> None:
    done = 0
    while done < len(part):
        count = os.preadv(fd, [part[done:]], start + done)
        if count == 0:
            raise DataLost(f"the data file ends at {start + done}, inside of a block")
        done += count


def _read_hashed(fd: int, into: memoryview, start: int, layer_bytes: int) -> list[int]:
    """Read whole layers and return the digest of each."""
    digest = xxhash.xxh3_64_intdigest
    if len(into) <= _HASH_BYTES:
        _read_full(fd, into, start)
        return [digest(into[at : at + layer_bytes]) for at in range(0, len(into), layer_bytes)]
    digests = []
    for first in range(0, len(into), layer_bytes):
        hasher = xxhash.xxh3_64()
        for at in range(first, first + layer_bytes, _HASH_BYTES):
            piece = into[at : min(at + _HASH_BYTES, first + layer_bytes)]
            _read_full(fd, piece, start + at)
            hasher.update(piece)
        digests.append(hasher.intdigest())
    return digests


def _unreadable(piece: Piece, error: OSError) -> DataLost:
    return DataLost(f"data file {piece.file} of stream {piece.stream!r} cannot be read: {error}")


def _pieces(wants: Sequence[Want], layer: int) -> list[Piece]:
    pieces = []
    for index, (slot, header) in enumerate(wants):
        _check_want(slot, header)
        if not 0 <= layer < header.layout.layers:
            raise InvalidInput(f"layer {layer} of a block with {header.layout.layers} layers")
        length = header.layer_bytes
        pieces.append(Piece(slot.stream, slot.file, slot.start + layer * length, length, index))
    return pieces


def _check_want(slot: DiskSlot, header: BlockHeader) -> None:
    if slot.length != header.payload_bytes or slot.stream != header.key.stream:
        raise InvalidInput(f"the slot {slot} is not that of block {header.key}")


def _buffer(length: int, out: Tensor | None) -> Tensor:
    if out is None:
        return torch.empty(length, dtype=torch.uint8)
    if out.dtype != torch.uint8 or out.dim() != 1 or not out.is_contiguous() or out.numel() < length:
        raise InvalidInput(f"the buffer to read into must be contiguous uint8 of at least {length} bytes")
    return out[:length]
