"""ReKV (arXiv 2503.00540) as its paper and its code have it, in plain loops over tokens and heads.

Slow and independent of Tandem: the layers of an untouched transformers model, called by hand. Differs from
the original in what made it crash only: blocks may have any length, k may pass what is cached, and a question
may come when the window has overflowed by fewer tokens than the initial prompt has.

Encoding, one block at a time, with `init` tokens of prompt and a window of `local` tokens::

    keys   0 1 .. init | ..... passed ..... | local - 1 tokens before query i ... i
           at angle 0    not seen             at their place in the window
           the query stands at local - 1      the query stands at its place in the window

A token of the prompt counts as initial once it has left the window; until then it is a token like others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class LiteralRekv:
    stock: Any
    init: int
    local: int
    keys: list[list[Tensor]] = field(default_factory=list)
    """Per layer, per token: raw keys [kv_heads, head_dim]."""
    values: list[list[Tensor]] = field(default_factory=list)
    blocks: list[range] = field(default_factory=list)
    """Which tokens each block holds."""

    def __post_init__(self) -> None:
        self.text = self.stock.model.language_model
        config = self.text.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.keys = [[] for _ in self.text.layers]
        self.values = [[] for _ in self.text.layers]
        self.angles: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def tokens(self) -> int:
        return len(self.keys[0])

    def rotated(self, x: Tensor, position: int) -> Tensor:
        """One vector at one position (all three axes of M-RoPE alike: plain RoPE)."""
        if position not in self.angles:
            angles = position * self.text.rotary_emb.inv_freq.double()
            self.angles[position] = angles.cos().float(), angles.sin().float()
        cos, sin = self.angles[position]
        first, second = x.chunk(2)
        return torch.cat((first * cos - second * sin, second * cos + first * sin))

    def attention(self, query: Tensor, seen: list[tuple[Tensor, Tensor, int, int]]) -> Tensor:
        """One token's output: `seen` are raw keys, values, and the angles of key and query, per token."""
        outputs = []
        for head in range(self.heads):
            shared = head * self.kv_heads // self.heads
            turned = {at: self.rotated(query[head], at) for at in {query_at for _, _, _, query_at in seen}}
            scores = torch.stack(
                [turned[query_at] @ self.rotated(key[shared], key_at) for key, _, key_at, query_at in seen]
            )
            weights = (scores / query.shape[-1] ** 0.5).softmax(0)
            outputs.append(weights @ torch.stack([value[shared] for _, value, _, _ in seen]))
        return torch.cat(outputs)

    def through(self, embeds: Tensor, attend: Any) -> Tensor:
        """All layers over new tokens; ``attend(layer, queries, keys, values)`` gives a layer's outputs."""
        hidden = embeds
        for index, layer in enumerate(self.text.layers):
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            queries = attention.q_proj(normed).view(len(normed), self.heads, -1)
            keys = attention.k_proj(normed).view(len(normed), self.kv_heads, -1)
            values = attention.v_proj(normed).view(len(normed), self.kv_heads, -1)
            hidden = hidden + attention.o_proj(attend(index, queries, keys, values))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.text.norm(hidden)

    def encode(self, embeds: Tensor, *, as_block: bool = True) -> None:
        """One sub-step: the prompt, or one block."""
        first = self.tokens
        held_init = min(self.init, max(0, first - self.local))

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            self.keys[layer] += list(keys)
            self.values[layer] += list(values)
            window_start = max(0, first - self.local)
            rows = []
            for i, query in enumerate(queries, first):
                seen = [
                    (self.keys[layer][j], self.values[layer][j], 0, self.local - 1) for j in range(held_init)
                ]
                for j in range(max(window_start, i - self.local + 1), i + 1):
                    place = (j - window_start, i - window_start)
                    seen.append((self.keys[layer][j], self.values[layer][j], *place))
                rows.append(self.attention(query, seen))
            return torch.stack(rows)

        self.through(embeds, attend)
        if as_block:
            self.blocks.append(range(first, self.tokens))

    def representative(self, layer: int, block: int) -> Tensor:
        """[heads * head_dim]: mean raw key, repeated to all query heads, concatenated."""
        mean = torch.stack([self.keys[layer][token] for token in self.blocks[block]]).mean(0)
        return torch.cat([mean[head * self.kv_heads // self.heads] for head in range(self.heads)])

    def scores(self, layer: int, queries: Tensor) -> Tensor:
        """Of all blocks against a question's raw queries [tokens, heads, head_dim]: a plain dot product."""
        question = queries.mean(0).flatten()
        return torch.tensor(
            [float(self.representative(layer, b) @ question) for b in range(len(self.blocks))]
        )

    def topk(self, scores: Tensor, k: int, chunk: int) -> list[int]:
        """Block indices in time order; chunks of neighbours by their average when there are more than k."""
        blocks = len(scores)
        if blocks <= k:
            return list(range(blocks))
        means = [float(scores[at : at + chunk].mean()) for at in range(0, blocks, chunk)]
        order = sorted(range(len(means)), key=lambda at: -means[at])
        chosen = sorted(order[: k // chunk])
        return [b for at in chosen for b in range(at * chunk, (at + 1) * chunk) if b < blocks]

    def ask(self, question: Tensor, rest: Tensor, k: int, chunk: int) -> tuple[list[list[int]], Tensor]:
        """Both passes: the blocks of each layer, then logits of the last of [question | rest]."""
        picks: list[list[int]] = []

        def retrieve(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            picks.append(self.topk(self.scores(layer, queries), k, chunk))
            return self.answer_attention(layer, picks[layer], queries, keys, values)

        def reuse(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            return self.answer_attention(layer, picks[layer], queries, keys, values)

        self.through(question, retrieve)
        hidden = self.through(torch.cat((question, rest)), reuse)
        return picks, self.stock.lm_head(hidden[-1]).float()

    def answer_attention(
        self, layer: int, picks: list[int], queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Over [init | retrieved | new], at consecutive positions."""
        context = [*range(self.init), *(token for b in picks for token in self.blocks[b])]
        rows = []
        for i, query in enumerate(queries):
            at = len(context) + i
            seen = [
                (self.keys[layer][j], self.values[layer][j], place, at) for place, j in enumerate(context)
            ]
            seen += [(keys[j], values[j], len(context) + j, at) for j in range(i + 1)]
            rows.append(self.attention(query, seen))
        return torch.stack(rows)
