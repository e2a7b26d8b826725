"""What `bench.decode` and `bench.workers` share: one model twice, contexts of random content, the bare peer.

The peer is transformers' own forward pass with SDPA attention over a kept cache, driven by the shortest loop
there is: no `generate()` around it, whose processors and stopping rules would be charged to it. Its default
cache, `DynamicCache`, copies itself to grow by a token; `StaticCache` does not, and attends under a mask.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.segment import Segment

SOURCE = "dummy:medium"
Row = dict[str, Any]
Kept = tuple[Tensor, Tensor]
"""Raw keys and values [L, H, N, D]."""


def random_kept(model: VisionLanguageModel, tokens: int, seed: int) -> Kept:
    """Keys and values as some tokens would have left them."""
    generator, layout = torch.Generator().manual_seed(seed), model.layout
    shape = (layout.layers, layout.kv_heads, tokens, layout.head_dim)
    keys, values = (torch.randn(shape, generator=generator, dtype=model.dtype) for _ in range(2))
    return keys, values


def positions(start: int, tokens: int) -> Tensor:
    """Of text: equal on all axes, int64 [3, tokens]."""
    return torch.arange(start, start + tokens).expand(3, -1)


def segment_of(model: VisionLanguageModel, kept: Kept, room: int = 0) -> Segment:
    """A segment that holds them at positions from 0 on."""
    tokens = kept[0].shape[2]
    segment = model.new_segment(capacity=tokens + room)
    segment.append_raw(*kept, positions(0, tokens))
    return segment


class Peer:
    """Transformers' decoding of one or several rows, each with a cache of its own."""

    def __init__(
        self, stock: Any, model: VisionLanguageModel, kept: Sequence[Kept], *, static_room: int = 0
    ) -> None:
        """Each row's cache holds what `kept` says, from position 0 on.

        With `static_room` it is a `StaticCache` with room for so many tokens more.
        """
        self._stock, config = stock, stock.config.text_config
        self.context, self._static = kept[0][0].shape[2], static_room > 0
        if static_room:
            self._cache = transformers.StaticCache(config=config, max_cache_len=self.context + static_room)
        else:
            self._cache = transformers.DynamicCache(config=config)
        for layer in range(model.layout.layers):
            keys = torch.stack([each[0][layer] for each in kept])
            turned = model.rope.rotate(keys, positions(0, self.context))
            self._cache.update(turned, torch.stack([each[1][layer] for each in kept]), layer)

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers)

    def decode(self, first: Sequence[int], tokens: int) -> tuple[list[float], list[list[int]]]:
        """Seconds of each greedy step and the tokens it gave to the rows; forgets them afterwards."""
        ids, seconds, made = torch.tensor(first)[:, None], [], []
        for at in range(self.context, self.context + tokens):
            began_s = time.perf_counter()
            output = self._stock(
                input_ids=ids,
                position_ids=torch.full((3, len(ids), 1), at),
                past_key_values=self._cache,
                use_cache=True,
            )
            ids = output.logits[:, -1].argmax(-1, keepdim=True)
            made.append(ids[:, 0].tolist())
            seconds.append(time.perf_counter() - began_s)
        self._forget(tokens)
        return seconds, made

    def _forget(self, tokens: int) -> None:
        if not self._static:
            self._cache.crop(-tokens)
            return
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(self.context)


def read_rate(elements: int = 1 << 26) -> Callable[[], float]:
    """What to call for the bytes per second at which memory is read: a sum over 256 MB."""
    block = torch.ones(elements)

    def measure() -> float:
        began_s = time.perf_counter()
        block.sum()
        return block.nbytes / (time.perf_counter() - began_s)

    measure()
    return measure


def weight_bytes(stock: Any) -> int:
    """Bytes of all that a decode step reads: the text layers and the head, not the embeddings' table."""
    return sum(
        parameter.nbytes
        for name, parameter in stock.named_parameters()
        if ("language_model" in name and "embed_tokens" not in name) or name.startswith("lm_head")
    )


def row(metric: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """A row of the report: the median and the distance of the quartiles over it."""
    middle = statistics.median(values)
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [middle] * 3
    spread = round((quarters[2] - quarters[0]) / middle, 3) if middle > 0 else None
    result = {"metric": metric, "value": middle, "unit": unit, "baseline": None, "ratio": None, **more}
    rounded = {key: round(x, 4) if isinstance(x, float) else x for key, x in result.items()}
    return {**rounded, "n": len(values), "spread": spread}
