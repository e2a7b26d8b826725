"""One question with all it ever read and wrote kept, and an explicit mask a head: what policies mean.

Slow and independent of Tandem: raw keys and values of prompt and generated text are kept for ever, rotated to
explicit positions by transformers' own rotary module, and transformers' own eager attention gets a mask that
says for each layer, query head and new token what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb, eager_attention_forward

from tests.parity.literal_hogwild import Context

Sees = Callable[[int], Tensor]
"""Layer -> bool [query heads or 1, 1 or new tokens, all tokens]; causality is added."""


class LiteralMasked:
    """Tokens are numbered: those of the context first, then prompt and text as they are read."""

    def __init__(self, stock: Any, context: Context) -> None:
        self.stock, self.text, self.context = stock, stock.model.language_model, context
        self.layers = len(self.text.layers)
        self.before = context.keys[0].shape[1]
        self.positions = torch.empty(3, 0, dtype=torch.int64)
        self.keys: list[list[Tensor]] = [[] for _ in range(self.layers)]
        self.values: list[list[Tensor]] = [[] for _ in range(self.layers)]
        self.probabilities: list[Tensor] = []
        """Of the newest call, per layer [query heads, new tokens, all tokens]."""

    @torch.no_grad()
    def read(self, ids: Sequence[int], positions: Tensor, sees: Sees | None = None) -> Tensor:
        """Logits behind the last of the new tokens, at `positions` int64 [3, N]."""
        self.positions = torch.cat((self.positions, positions), 1)
        self.probabilities = []
        hidden = self.stock.get_input_embeddings()(torch.tensor(ids))
        for index, layer in enumerate(self.text.layers):
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            query, key, value = (
                side(normed).view(len(ids), -1, attention.head_dim).transpose(0, 1)
                for side in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            self.keys[index].append(key)
            self.values[index].append(value)
            attended = self._attend(attention, index, query, sees)
            hidden = hidden + attention.o_proj(attended)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.stock.lm_head(self.text.norm(hidden)).float()[-1]

    def _attend(self, attention: Any, layer: int, query: Tensor, sees: Sees | None) -> Tensor:
        keys, new = torch.cat(self.keys[layer], 1), query.shape[1]
        cos, sin = self.text.rotary_emb(keys, self.positions[:, None])
        padded = torch.zeros(query.shape[0], keys.shape[1], query.shape[2])
        padded[:, -new:] = query
        turned, rotated = apply_rotary_pos_emb(padded[None], keys[None], cos, sin)
        all_keys = torch.cat((self.context.keys[layer], rotated[0]), 1)
        all_values = torch.cat((self.context.values[layer], *self.values[layer]), 1)
        total = all_keys.shape[1]
        seen = torch.ones(new, total, dtype=torch.bool).tril(total - new).expand(query.shape[0], -1, -1)
        if sees is not None:
            seen = seen & sees(layer)
        mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
        output, weights = eager_attention_forward(
            attention, turned[:, :, -new:], all_keys[None], all_values[None], mask[None], attention.scaling
        )
        self.probabilities.append(weights[0])
        return output[0].reshape(new, -1)
