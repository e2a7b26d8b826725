"""A sliding window that is smaller than the stream, against a literal reference that masks query by query."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tests.parity.split_pipeline import (
    encode,
    random_frames,
    relative_error,
    shifted,
    text_positions,
    unit_times,
)


def rotated(x_nd: Tensor, positions_3n: Tensor, inv_freq: Tensor, sections: list[int]) -> Tensor:
    """M-RoPE by its definition: each chunk of frequencies takes its own axis."""
    axis = torch.cat([torch.full((size,), i % 3) for i, size in enumerate(sections)])
    angles = positions_3n.double()[axis].T * inv_freq.double()
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x_nd.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def literal_prefill(stock, embeds_te: Tensor, query_positions_3t: Tensor, visible) -> tuple[Tensor, Tensor]:
    """Runs the stock layers by hand; `visible(query)` gives (tokens seen, their positions for that query)."""
    text = stock.model.language_model
    config = text.config
    sections = config.rope_parameters["mrope_section"]
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    hidden, values = embeds_te, []
    for layer in text.layers:
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        tokens = len(hidden)
        query = attention.q_proj(normed).view(tokens, heads, -1)
        key = attention.k_proj(normed).view(tokens, kv_heads, -1)
        value = attention.v_proj(normed).view(tokens, kv_heads, -1)
        values.append(value.transpose(0, 1))
        rows = []
        for at in range(tokens):
            seen, positions = visible(at)
            inv = text.rotary_emb.inv_freq
            per_head = []
            for head in range(heads):
                shared = head * kv_heads // heads
                q = rotated(query[at : at + 1, head], query_positions_3t[:, at : at + 1], inv, sections)
                k = rotated(key[seen, shared], positions, inv, sections)
                weights = (q @ k.T / q.shape[-1] ** 0.5).softmax(-1)
                per_head.append(weights @ value[seen, shared])
            rows.append(torch.cat(per_head, -1))
        hidden = hidden + attention.o_proj(torch.cat(rows))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return text.norm(hidden), torch.stack(values)


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped"])
@pytest.mark.parametrize(("window", "chunk"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2), (3, 5), (4, 3)])
@torch.no_grad()
def test_window_equals_a_literal_mask(source, window, chunk):
    model, stock = load_model(source), stock_model(source)
    units = 6
    frames = random_frames(model, units, 56, 84)
    encoded = encode(model, frames, chunk=chunk, window=window)

    prompt, seen = model.prompt, model.see(frames)
    embeds = model.unit_embeds(seen, unit_times(model, units)).flatten(0, 1)
    sink_ids = prompt.sink_tokens()
    geometry = prompt.geometry(seen.grid)
    placement = prompt.placement(geometry)
    local, size, sink = prompt.local_positions(geometry), geometry.tokens, len(sink_ids)
    positions = torch.cat(
        [text_positions(0, sink), *(shifted(local, base) for base in placement.place_units(units))], 1
    )

    def visible(query: int) -> tuple[Tensor, Tensor]:
        if query < sink:
            return torch.arange(query + 1), positions[:, : query + 1]
        unit = (query - sink) // size
        oldest = max(0, unit - window + 1)
        recent = torch.arange(sink + oldest * size, query + 1)
        sink_positions = text_positions(0, sink) + torch.tensor(placement.sink_base(oldest))[:, None]
        return torch.cat([torch.arange(sink), recent]), torch.cat([sink_positions, positions[:, recent]], 1)

    hidden, values = literal_prefill(stock, torch.cat([model.embed(sink_ids), embeds]), positions, visible)
    assert relative_error(torch.cat(encoded.hidden), hidden[sink:]) < 1e-5
    raw_values = torch.cat([values for _, values in encoded.units], 2)
    assert relative_error(raw_values, values[:, :, sink:]) < 1e-5


def test_the_sink_stays_contiguous_before_the_oldest_unit():
    for source in ("dummy:tiny", "dummy:tiny-timestamped"):
        prompt = load_model(source).prompt
        placement = prompt.placement(prompt.geometry((1, 2, 3)))
        placement.place_units(9)
        first = torch.tensor(placement.base_of(0)) - torch.tensor(placement.sink_base(0))
        for oldest in range(9):
            gap = torch.tensor(placement.base_of(oldest)) - torch.tensor(placement.sink_base(oldest))
            assert torch.equal(gap, first)
