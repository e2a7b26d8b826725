"""Blocks that stand elsewhere: re-placed bytes equal a prefill at the new positions."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tandem.vlm.view import Part, View
from tests.parity.split_pipeline import random_frames, relative_error, shifted, text_positions


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped"])
@pytest.mark.parametrize("base", [(0, 0, 0), (40, 40, 40), (171, 9, 9), (5, 60, 2), (6000, 6000, 6000)])
@pytest.mark.parametrize("origin", [(0, 0, 0), (33, 2, 7)])
@torch.no_grad()
def test_a_moved_block_equals_a_prefill_with_explicit_positions(source, base, origin):
    """`base` is where the block stands, `origin` where its segment's does."""
    model, stock = load_model(source), stock_model(source)
    seen = model.see(random_frames(model, 1))
    geometry = model.prompt.geometry(seen.grid)
    local = model.prompt.local_positions(geometry)
    block = model.unit_embeds(seen, [0])[0]
    alone = model.forward(block, local, View(tail=Part(segment=model.new_segment())), capture=True)

    segment, tail = model.new_segment(), model.new_segment()
    segment.append_raw(alone.raw_keys, alone.raw_values, local + torch.tensor(origin)[:, None])
    text = model.embed(model.prompt.question_tokens("where is it now?"))
    after = text_positions(max(base) + 8, len(text))
    view = View(
        parts=(Part(segment=segment, base=tuple(b - o for b, o in zip(base, origin, strict=True))),),
        tail=Part(segment=tail, base=(max(base), max(base), max(base))),
    )
    ours = model.forward(text, after, view).hidden

    positions = torch.cat([shifted(local, base), after], 1)
    theirs = stock.model.language_model(
        inputs_embeds=torch.cat([block, text])[None], position_ids=positions[:, None], use_cache=False
    ).last_hidden_state[0, len(block) :]
    # Transformers' angles are float32: their own error grows with the position.
    assert relative_error(ours, theirs) < (2e-3 if max(base) > 1000 else 1e-5)


@torch.no_grad()
def test_a_uniform_shift_of_the_reader_changes_nothing_however_far():
    model = load_model("dummy:tiny-timestamped")
    seen = model.see(random_frames(model, 1))
    local = model.prompt.local_positions(model.prompt.geometry(seen.grid))
    block = model.unit_embeds(seen, [0])[0]
    near = model.forward(block, local, View(tail=Part(segment=model.new_segment()))).hidden
    for far in (6_000, 3_600_000):
        tail = Part(segment=model.new_segment())
        shift = (far, far, far)
        assert (
            relative_error(model.forward(block, shifted(local, shift), View(tail=tail)).hidden, near) < 2e-5
        )
