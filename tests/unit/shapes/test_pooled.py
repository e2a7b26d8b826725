"""The committed maps of the pooled embedder find what questions name, in pictures drawn for this test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tandem.core.errors import Incompatible
from tandem.shapes.draw import random_pictures
from tandem.shapes.evaluate import MODEL_FOLDER
from tandem.shapes.questions import PHRASES
from tandem.shapes.tokenizer import vocabulary
from tandem.shapes.train_pooled import DIM, draw_question, name_things, precisions, train_maps, train_pooled
from tandem.shapes.words import COLOUR_NAMES, SHAPES
from tandem.vlm.embedders.pick import load_embedder
from tandem.vlm.load import load_model

THINGS = len(SHAPES) * len(COLOUR_NAMES)
PER_THING = 5


def test_precision_on_held_out_pictures() -> None:
    model, embedder = load_model("default"), load_embedder("pooled", "default")
    assert embedder is not None
    assert embedder.dim == DIM
    index = np.arange(THINGS + 1).repeat(PER_THING)
    shape = np.where(index == THINGS, -1, index // len(COLOUR_NAMES))
    colour = np.where(index == THINGS, -1, index % len(COLOUR_NAMES))
    drawn = torch.from_numpy(random_pictures(np.random.default_rng(31_337), shape, colour))[:, None]
    shown = torch.cat([embedder.pictures(frames, model.see(frames)) for frames in drawn.split(64)])
    found = precisions(embedder.text, shown.view(THINGS + 1, PER_THING, -1), seed=3, questions=300)
    assert set(found) == {"both", "colour", "shape"}
    assert min(found.values()) > 0.95, found


def test_a_question_that_names_nothing_prefers_nothing() -> None:
    embedder = load_embedder("pooled", "default")
    assert embedder is not None
    assert not embedder.text("xyzzy").any()
    named, other = embedder.text("the red star"), embedder.text("the blue moon")
    asked, open_one = embedder.text("have you seen a red star?"), embedder.text("what was shown at 00:12?")
    assert abs(float(open_one @ named)) < 0.2
    assert float(asked @ named) > 0.5 + float(asked @ other)


def test_what_questions_name() -> None:
    rng = np.random.default_rng(1)
    named = {kind: name_things(phrases[0], 3, 0, rng) for kind, phrases in PHRASES.items()}
    assert named["after"].text == "what came after the red star?"
    assert (named["after"].shape, named["after"].colour) == (3, 0)
    assert (named["colour_of_shape"].shape, named["colour_of_shape"].colour) == (3, None)
    assert (named["count_colour"].shape, named["count_colour"].colour) == (None, 0)
    assert named["after"].matches().nonzero().tolist() == [[3 * len(COLOUR_NAMES)]]
    assert int(named["colour_of_shape"].matches().sum()) == len(COLOUR_NAMES)
    assert int(named["count_colour"].matches().sum()) == len(SHAPES)
    assert named["shown_at"].matches().all()
    assert len({draw_question(rng).text for _ in range(200)}) > 100


def test_training_follows_from_its_seed() -> None:
    bank = torch.randn(THINGS + 1, 3, 4, 16, generator=torch.Generator().manual_seed(0))
    first, again = (train_maps(bank, vocabulary(), 5, steps=2) for _ in range(2))
    assert torch.equal(first.vision, again.vision)
    assert torch.equal(first.words, again.words)
    assert not first.words[vocabulary()["<|im_end|>"]].any(), "words that are never asked name nothing"


def test_a_checkpoint_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    source = MODEL_FOLDER / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_text(source.read_text().replace('"star"', '"starfish"'))
    bank = torch.zeros(THINGS + 1, 1, 4, 16)
    with pytest.raises(Incompatible, match="vocabulary"):
        train_pooled(bank, bank, tmp_path, seed=1, steps=1)
