"""Tensor. Checks the layers of an attempt as its frames land, each byte once.

Frames land in order, and so do layers: at any time at most one layer is half there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import xxhash

from kv_transfer.protocol.frames import Frame, Span
from tandem.core.blocks import BlockHeader


class LayerVerifier:
    """Follows one attempt."""

    def __init__(self, headers: Sequence[BlockHeader], buffers: Mapping[int, torch.Tensor]) -> None:
        # All that is known in advance is looked up here: `landed` stands between the wire and the reader.
        self._blocks = {
            index: (
                buffer.numpy().data,
                headers[index].layer_bytes,
                headers[index].layer_checksums,
            )
            for index, buffer in buffers.items()
        }
        self._partial: xxhash.xxh3_64 | None = None

    def landed(self, frame: Frame) -> list[tuple[int, int, bool]]:
        """The frame's bytes are in the buffers: (block index, layer, matched) of each layer it completed."""
        done: list[tuple[int, int, bool]] = []
        for span in frame.spans:
            self._span(span, done)
        return done

    def _span(self, span: Span, done: list[tuple[int, int, bool]]) -> None:
        index, at, end = span.block, span.start, span.end
        view, size_bytes, checksums = self._blocks[index]
        layer = at // size_bytes
        while at < end:
            layer_end = (layer + 1) * size_bytes
            if layer_end > end:
                if self._partial is None:
                    self._partial = xxhash.xxh3_64()
                self._partial.update(view[at:end])
                return
            piece = view[at:layer_end]
            digest = xxhash.xxh3_64_intdigest(piece) if self._partial is None else self._finish(piece)
            done.append((index, layer, digest == checksums[layer]))
            at = layer_end
            layer += 1

    def _finish(self, piece: memoryview) -> int:
        assert self._partial is not None, "no layer is half there"
        self._partial.update(piece)
        digest = int(self._partial.intdigest())
        self._partial = None
        return digest
