"""Questions on what retrieval brings back: the fast forward equals transformers' own, evidence comes back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tandem.shapes.batches import video_positions, window_mask
from tandem.shapes.layout import BLOCK_SPAN
from tandem.shapes.network import make_model
from tandem.shapes.recall_batches import CHUNK, RecallBatch, make_recall_batch
from tandem.shapes.recall_text import Layers, Recalled, recall_forward
from tandem.shapes.tokenizer import vocabulary
from tandem.shapes.train_text import embed

LAYERS = Layers(2, 3, (2, 3, 4))


def forward(batch: RecallBatch) -> tuple[Recalled, torch.Tensor]:
    """A fresh model's pass, and its states of the first question by transformers with all frames in view."""
    model = make_model(vocabulary(), 0)
    text = model.model.language_model
    x = embed(model, torch.randn(91, 2, 4, 192), batch, torch.Generator().manual_seed(0))
    asked = text.embed_tokens(batch.words)
    ours = recall_forward(text, x[0], asked, batch, LAYERS)
    frames, length = batch.bank_rows.shape[1], batch.words.shape[1]
    start = 6 + BLOCK_SPAN * frames
    own = torch.arange(start, start + length).expand(3, -1)
    positions = torch.cat([torch.from_numpy(video_positions(frames, 0)), own], dim=1)
    mask = torch.full((batch.video + length, batch.video + length), -1e9).triu(1)
    mask[: batch.video, : batch.video] = torch.from_numpy(window_mask(frames, np.array([batch.window])))[0, 0]
    theirs = text(
        inputs_embeds=torch.cat([x, asked[:1]], dim=1),
        attention_mask={"full_attention": mask[None, None]},
        position_ids=positions[:, None],
    ).last_hidden_state
    return ours, theirs[0, batch.video :]


@torch.no_grad()
def test_equals_transformers_with_everything_in_view() -> None:
    batch = make_recall_batch(np.random.default_rng(0), vocabulary(), CHUNK, 4)
    # The only chunk stands where the one before it would: so its sink is as far as in one prompt.
    batch = replace(batch, gap=-CHUNK * BLOCK_SPAN, recalled=4, recent=CHUNK - 4, window=5)
    ours, theirs = forward(batch)
    torch.testing.assert_close(ours.states[0], theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layers_see_their_own_choice() -> None:
    batch = make_recall_batch(np.random.default_rng(1), vocabulary(), 4 * CHUNK, 8)
    batch = replace(batch, recent=CHUNK, recalled=8)
    ours, _ = forward(batch)
    assert len(ours.far) == len(ours.hits) == len(LAYERS.find)
    assert len(ours.middle) == len(ours.coded) == 4 * CHUNK
    more, _ = forward(replace(batch, recalled=16))
    assert not torch.allclose(ours.states, more.states)


def test_questions_of_a_batch_are_laid_out() -> None:
    batch = make_recall_batch(np.random.default_rng(2), vocabulary(), 4 * CHUNK, 16)
    words = {number: word for word, number in vocabulary().items()}
    for row in range(16):
        spoken = [words[int(i)] for i in batch.words[row]]
        learned = (batch.targets[row] >= 0).nonzero()[:, 0]
        asked = int(batch.own[row].sum())
        assert spoken[asked : asked + 3] == ["<|im_end|>", "<|im_start|>", "assistant"]
        assert learned[0] == asked + 2
        answer = [words[int(i)] for i in batch.targets[row, learned]]
        assert answer[-1] == "<|im_end|>"
        assert answer[:-1] == spoken[asked + 3 : asked + 2 + len(answer)]
    assert not (batch.wanted & batch.spared).any()
