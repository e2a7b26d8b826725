"""Positions equal transformers' `get_rope_index`, and angles those of its rotary modules."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.dummy import builtin
from tandem.vlm.load import load_model
from tandem.vlm.rope import Rope, turn
from tandem.vlm.unsplit import stock_inputs
from tests.parity.split_pipeline import random_frames, shifted, text_positions, unit_times


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped", "default"])
@pytest.mark.parametrize(("units", "fps"), [(1, None), (3, 2.0), (40, 0.31), (17, 24.0), (60, 1.3)])
@pytest.mark.parametrize(("height", "width"), [(28, 140), (112, 56)])
def test_a_whole_prompt_is_placed_as_transformers_places_it(source, units, fps, height, width):
    model = load_model(source, fps=fps)
    prompt = model.prompt
    inputs = stock_inputs(model, random_frames(model, units, height, width), unit_times(model, units), "why?")
    del inputs["pixel_values_videos"]
    theirs, _ = model.hf.model.get_rope_index(**inputs)

    geometry = prompt.geometry(model.grid(height, width))
    placement = prompt.placement(geometry)
    local = prompt.local_positions(geometry)
    ours = [text_positions(0, len(prompt.sink_tokens()))]
    ours += [shifted(local, base) for base in placement.place_units(units)]
    ours += [text_positions(placement.after_units()[0], len(prompt.question_tokens("why?")))]
    assert torch.equal(torch.cat(ours, 1), theirs[:, 0])


def test_units_of_different_size_follow_each_other():
    prompt = load_model("dummy:tiny-timestamped").prompt
    shapes = [prompt.geometry(grid) for grid in [(1, 2, 3), (1, 5, 1), (1, 1, 1)]]
    placement = prompt.placement()
    bases = placement.place_units(shapes)
    for geometry, base, following in zip(shapes, bases, [*bases[1:], placement.after_units()], strict=True):
        assert following[0] == base[0] + int(prompt.local_positions(geometry).max()) + 1
    assert placement.generation_start(7) == placement.after_units()[0] + 7
    assert placement.units == 3


def rotary_modules():
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    interleaved = Qwen3VLTextConfig(
        hidden_size=64,
        num_attention_heads=2,
        head_dim=32,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5]},
    )
    return [
        Qwen2_5_VLRotaryEmbedding(builtin("tiny")[0].text_config),
        Qwen2_5_VLRotaryEmbedding(builtin("qwen2.5-vl-7b")[0].text_config),
        Qwen3VLTextRotaryEmbedding(interleaved),
    ]


@pytest.mark.parametrize("rotary", rotary_modules(), ids=["chunks", "real chunks", "interleaved"])
def test_angles_are_those_of_the_models_module(rotary):
    rope = Rope.read_off(rotary)
    positions = torch.randint(0, 90, (3, 50), generator=torch.Generator().manual_seed(1))
    cos, sin = rotary(torch.zeros(1, 50, 1), positions[:, None])
    dim = 2 * rope.inv_freq_AF.shape[1]
    x = torch.randn(50, dim, generator=torch.Generator().manual_seed(2))
    if cos.ndim == 4:
        pytest.skip("needs a transformers whose rotary module picks the axis itself")
    half = torch.cat((-x[:, dim // 2 :], x[:, : dim // 2]), -1)
    theirs = x * cos[0] + half * sin[0]
    torch.testing.assert_close(rope.rotate(x, positions), theirs, rtol=1e-5, atol=2e-5)


def test_scores_far_out_depend_on_distance_alone():
    """float32 angles are off by 1e-3 in raw scores at position 5000; ours are not."""
    rope = Rope.read_off(rotary_modules()[1])
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(64, 128, generator=generator) for _ in range(2))
    near = (rope.rotate(query, text_positions(30, 64)) * rope.rotate(key, text_positions(3, 64))).sum(-1)
    for shift in (5_000, 70_000, 5_000_000):
        far_query = rope.rotate(query, text_positions(30 + shift, 64))
        far_key = rope.rotate(key, text_positions(3 + shift, 64))
        # Rounding of the rotated vectors remains (1e-7 each); the angles add nothing that grows.
        assert float(((far_query * far_key).sum(-1) - near).abs().max()) < 3e-5


def test_tables_are_exact_at_large_positions():
    rope = Rope.read_off(rotary_modules()[1])
    cos, signed_sin = rope.tables(text_positions(123_456_789, 1))
    angles = 123_456_789 * rope.inv_freq_AF.sum(0)
    torch.testing.assert_close(cos[0, :64].double(), angles.cos(), rtol=0, atol=1e-7)
    torch.testing.assert_close(signed_sin[0, 64:].double(), angles.sin(), rtol=0, atol=1e-7)


def test_turning_back_is_the_inverse():
    rope = Rope.read_off(rotary_modules()[0])
    x = torch.randn(2, 5, 16)
    there = rope.tables(text_positions(11, 5))
    back = rope.tables(-text_positions(11, 5))
    torch.testing.assert_close(turn(turn(x, *there), *back), x)
