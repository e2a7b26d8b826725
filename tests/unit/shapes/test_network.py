"""The fast forwards of training equal transformers' own, and positions equal its rope index."""

import numpy as np
import torch

from tandem.shapes.batches import make_batch, video_positions, video_words
from tandem.shapes.events import draw_timeline
from tandem.shapes.network import make_model, patches, tower_forward
from tandem.shapes.tokenizer import vocabulary
from tandem.shapes.train_text import embed, text_forward


def test_tower_equals_transformers() -> None:
    visual = make_model(vocabulary(), 0).model.visual
    pictures = torch.randint(0, 256, (3, 56, 56, 3), dtype=torch.uint8)
    ours = tower_forward(visual, patches(pictures))
    grid = torch.tensor([[1, 4, 4]] * 3)
    theirs = visual(patches(pictures).flatten(0, 1), grid_thw=grid).pooler_output
    torch.testing.assert_close(ours.flatten(0, 1), theirs)


def test_text_equals_transformers() -> None:
    model = make_model(vocabulary(), 0)
    batch = make_batch(np.random.default_rng(0), vocabulary(), 2, 6, 80, windowed=True)
    x = embed(model, torch.randn(91, 2, 4, 192), batch, torch.Generator().manual_seed(0))
    ours, *_ = text_forward(model.model.language_model, x, batch)
    total = batch.ids.shape[1]
    mask = torch.full((2, 1, total, total), -1e9)
    assert batch.video_mask is not None
    mask[:, :, : batch.video, : batch.video] = batch.video_mask
    mask[:, :, batch.video :] = batch.question_mask
    theirs = model.model.language_model(
        inputs_embeds=x, attention_mask={"full_attention": mask}, position_ids=batch.positions
    ).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_positions_equal_the_rope_index() -> None:
    words = vocabulary()
    model = make_model(words, 0)
    timeline = draw_timeline(np.random.default_rng(2), 5)
    ids = torch.tensor([[words[w] for w in video_words(timeline)]])
    kinds = torch.where(ids == words["<|video_pad|>"], 2, 0)
    index, _ = model.model.get_rope_index(ids, kinds, video_grid_thw=torch.tensor([[1, 4, 4]] * 5))
    assert torch.equal(index[:, 0], torch.from_numpy(video_positions(5, 0)))
