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
        self._headers = headers
        self._bytes = {index: buffer.numpy().data for index, buffer in buffers.items()}
        self._partial: xxhash.xxh3_64 | None = None

    def landed(self, frame: Frame) -> list[tuple[int, int, bool]]:
        """The frame's bytes are in the buffers: (block index, layer, matched) of each layer it completed."""
        return [layer for span in frame.spans for layer in self._span(span)]

    def _span(self, span: Span) -> list[tuple[int, int, bool]]:
        header = self._headers[span.block]
        size_bytes = header.layout.layer_bytes(header.tokens)
        view, done = self._bytes[span.block], []
        at = span.start
        while at < span.end:
            layer = at // size_bytes
            layer_end = (layer + 1) * size_bytes
            end = min(layer_end, span.end)
            piece = view[at:end]
            if end < layer_end:
                if self._partial is None:
                    self._partial = xxhash.xxh3_64()
                self._partial.update(piece)
            else:
                digest = self._finish(piece)
                done.append((span.block, layer, digest == header.layer_checksums[layer]))
            at = end
        return done

    def _finish(self, piece: memoryview) -> int:
        if self._partial is None:
            return int(xxhash.xxh3_64_intdigest(piece))
        self._partial.update(piece)
        digest = int(self._partial.intdigest())
        self._partial = None
        return digest
