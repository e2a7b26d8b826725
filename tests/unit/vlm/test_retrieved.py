"""A segment whose layers differ in length: a plain one where they do not, nothing where it is empty."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.load import load_model
from tandem.vlm.model import Step
from tandem.vlm.view import Part, View
from tests.parity.split_pipeline import relative_error, text_positions

BACKENDS = ["reference", "plain", "cpu"]


def drawn(model, tokens, seed):
    layout, generator = model.layout, torch.Generator().manual_seed(seed)
    shape = (layout.layers, layout.kv_heads, tokens, layout.head_dim)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def ask(model, parts, tokens=3, at=20):
    embeds = model.embed(list(range(1, tokens + 1)))
    view = View(parts=parts, tail=Part(segment=model.new_segment()))
    return model.forward(embeds, text_positions(at, tokens), view).hidden


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_equal_layers_are_a_plain_segment(backend, tokens):
    model = load_model("dummy:tiny", backend=backend)
    keys, values = drawn(model, 7, 1)
    plain, layered = model.new_segment(), model.new_layered_segment()
    plain.append_raw(keys, values, text_positions(2, 7))
    for layer in range(3):
        pieces = [side[layer].split([2, 4, 1], 1) for side in (keys, values)]
        layered.write(layer, *pieces, text_positions(2, 7))
    base = (3, 3, 3)
    ours = ask(model, (Part(segment=layered, base=base),), tokens)
    assert torch.equal(ours, ask(model, (Part(segment=plain, base=base),), tokens))
    assert [layered.tokens(layer) for layer in range(layered.layers)] == [7, 7, 7]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tokens", [1, 3])
def test_an_empty_one_is_no_part(backend, tokens):
    model = load_model("dummy:tiny", backend=backend)
    nothing = ask(model, (), tokens)
    assert torch.equal(ask(model, (Part(segment=model.new_layered_segment()),), tokens), nothing)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_layers_of_different_length_agree_with_the_reference(backend):
    outputs = []
    for name in (backend, "reference"):
        model = load_model("dummy:tiny", backend=name)
        layered, sink = model.new_layered_segment(), model.new_segment()
        sink.append_raw(*drawn(model, 4, 2), text_positions(0, 4))
        keys, values = drawn(model, 9, 1)
        for layer, tokens in ((0, 9), (1, 0), (2, 2)):
            layered.write(
                layer, keys[layer, :, :tokens], values[layer, :, :tokens], text_positions(4, tokens)
            )
        outputs.append(ask(model, (Part(segment=sink), Part(segment=layered)), 5))
    assert relative_error(*outputs) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_two_readers_share_it_beside_one_who_does_not(backend):
    def steps(model):
        layered = model.new_layered_segment()
        keys, values = drawn(model, 6, 1)
        layered.write(1, keys[1], values[1], text_positions(0, 6))
        views = [
            View(parts=parts, tail=Part(segment=model.new_segment()))
            for parts in ((Part(segment=layered),), (), (Part(segment=layered, base=(2, 2, 2)),))
        ]
        return [
            Step(embeds=model.embed([i + 1] * (i + 1)), positions=text_positions(9, i + 1), view=view)
            for i, view in enumerate(views)
        ]

    models = [load_model("dummy:tiny", backend=name) for name in (backend, "reference")]
    ours, theirs = (model.forward_many(steps(model)) for model in models)
    for mine, other in zip(ours, theirs, strict=True):
        assert relative_error(mine.hidden, other.hidden) < 1e-5


def test_what_was_written_is_a_copy():
    model = load_model("dummy:tiny")
    keys, values = drawn(model, 5, 1)
    positions, layered = text_positions(0, 5).clone(), model.new_layered_segment()
    for layer in range(3):
        layered.write(layer, keys[layer], values[layer], positions)
    before = ask(model, (Part(segment=layered),))
    keys.zero_()
    values.zero_()
    positions += 7
    assert torch.equal(ask(model, (Part(segment=layered),)), before)
    assert layered.nbytes == keys.nbytes + values.nbytes


def test_it_takes_no_bounds_and_no_new_tokens():
    model = load_model("dummy:tiny")
    layered = model.new_layered_segment()
    with pytest.raises(AssertionError, match="no common end"):
        ask(model, (Part(segment=layered, end=3),))
    with pytest.raises(AssertionError, match="appended"):
        model.forward(model.embed([1]), text_positions(0, 1), View(tail=Part(segment=layered)))
