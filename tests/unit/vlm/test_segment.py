"""A segment against a list of tokens, and what readers may rely on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.vlm.rope import Rope
from tandem.vlm.segment import Segment

LAYERS, HEADS, DIM = 2, 3, 8
ROPE = Rope(torch.tensor([[1.0, 0, 0, 0.001], [0, 0.1, 0, 0], [0, 0, 0.01, 0]], dtype=torch.float64), 1.0)


def segment(capacity=4):
    return Segment(ROPE, layers=LAYERS, kv_heads=HEADS, head_dim=DIM, dtype=torch.float32, capacity=capacity)


def tokens(number, seed):
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(LAYERS, HEADS, number, DIM, generator=generator) for _ in range(2))
    return keys, values, torch.randint(0, 100, (3, number), generator=generator)


steps = st.lists(st.tuples(st.sampled_from(["append", "drop", "truncate"]), st.integers(0, 9)), max_size=30)


@given(steps)
@settings(deadline=None, max_examples=60)
def test_holds_what_a_list_holds(actions):
    ours = segment()
    model: list[tuple[torch.Tensor, torch.Tensor]] = []
    start = 0
    for seed, (action, number) in enumerate(actions):
        if action == "append" and number:
            keys, values, positions = tokens(number, seed)
            ours.append_raw(keys, values, positions)
            rotated = ROPE.rotate(keys, positions)
            model += [(rotated[:, :, i], values[:, :, i]) for i in range(number)]
        elif action == "drop":
            start = min(start + number, len(model))
            ours.drop_front(start - ours.start)
        elif action == "truncate":
            end = max(start, len(model) - number)
            ours.truncate(end)
            del model[end:]
        assert (ours.start, ours.end, ours.length) == (start, len(model), len(model) - start)
        now = ours.snapshot()
        keys, values = now.columns(now.start, now.end)
        for layer in range(LAYERS):
            for column, number_of in enumerate(range(start, len(model))):
                assert torch.equal(keys[layer][:, column], model[number_of][0][layer])
                assert torch.equal(values[layer][:, column], model[number_of][1][layer])


def test_a_snapshot_outlives_growth_and_dropping():
    ours = segment()
    ours.append_raw(*tokens(10, 1))
    before = ours.snapshot()
    kept = [side.clone() for side in before.columns(2, 10)[0]]
    ours.drop_front(8)
    ours.append_raw(*tokens(500, 2))
    for layer, side in enumerate(before.columns(2, 10)[0]):
        assert torch.equal(side, kept[layer])


def test_a_sliding_window_runs_in_bounded_memory():
    ours = segment()
    for seed in range(400):
        ours.append_raw(*tokens(7, seed))
        ours.drop_front(max(0, ours.length - 70))
    bytes_of_window = 70 * LAYERS * HEADS * DIM * 4 * 2
    assert ours.nbytes <= 3 * bytes_of_window


def test_layers_may_come_one_by_one():
    keys, values, positions = tokens(5, 1)
    stacked, listed = segment(), segment()
    stacked.append_raw(keys, values, positions)
    listed.append_raw(list(keys), list(values), positions)
    assert torch.equal(stacked.snapshot().keys_LHCD[:, :, :5], listed.snapshot().keys_LHCD[:, :, :5])


def test_what_is_reserved_is_invisible_until_it_is_committed():
    ours = segment()
    ours.reserve(3)
    assert ours.end == 0
    ours.commit(3)
    assert ours.end == 3


def test_bounds_are_checked():
    ours = segment()
    ours.append_raw(*tokens(5, 1))
    with pytest.raises(AssertionError):
        ours.drop_front(6)
    with pytest.raises(AssertionError):
        ours.truncate(6)
    keys, values, positions = tokens(5, 1)
    with pytest.raises(AssertionError):
        ours.append_raw(keys, values, positions[:, :4])
