"""Everything in view: the split pipeline's greedy tokens equal transformers' own `generate`."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_answer, stock_inputs, stock_model
from tests.parity.split_pipeline import (
    RELATIVE_TOLERANCE,
    ask,
    encode,
    random_frames,
    real_heads_checkpoint,
    relative_error,
    unit_times,
)

QUESTION = "What happened, and when?"
TOKENS = 12


@pytest.fixture(scope="module", params=["dummy:tiny", "dummy:tiny-timestamped", "default"])
def pair(request):
    return load_model(request.param), stock_model(request.param)


def theirs(model, stock, frames):
    return stock_answer(
        stock, stock_inputs(model, frames, unit_times(model, len(frames)), QUESTION), max_new_tokens=TOKENS
    )


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 6, 7])
def test_any_chunk_size_gives_the_tokens_of_generate(pair, chunk):
    model, stock = pair
    frames = random_frames(model, 7)
    tokens, logits = theirs(model, stock, frames)
    ours, our_logits = ask(model, encode(model, frames, chunk=chunk), QUESTION, TOKENS)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(28, 28), (56, 200), (120, 64), (97, 131)])
@pytest.mark.parametrize("units", [1, 5])
def test_any_picture_shape(pair, height, width, units):
    model, stock = pair
    frames = random_frames(model, units, height, width, seed=height)
    tokens, logits = theirs(model, stock, frames)
    ours, our_logits = ask(model, encode(model, frames, chunk=2), QUESTION, TOKENS)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


def test_a_window_that_covers_the_stream_changes_nothing(pair):
    model, stock = pair
    frames = random_frames(model, 6)
    tokens, logits = theirs(model, stock, frames)
    ours, our_logits = ask(model, encode(model, frames, chunk=2, window=6), QUESTION, TOKENS)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("fps", [0.7, 1.0, 3.0, 24.0])
def test_other_sampling_rates_of_the_native_layout(fps):
    model, stock = load_model("dummy:tiny", fps=fps), stock_model("dummy:tiny")
    frames = random_frames(model, 9, 56, 56)
    tokens, logits = theirs(model, stock, frames)
    ours, our_logits = ask(model, encode(model, frames, chunk=4), QUESTION, TOKENS)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


def test_real_head_dimension_and_sections(tmp_path):
    source = real_heads_checkpoint(tmp_path)
    model = load_model(source, load_format="dummy", seed=3)
    stock = stock_model(source, load_format="dummy", seed=3)
    frames = random_frames(model, 4)
    tokens, logits = theirs(model, stock, frames)
    ours, our_logits = ask(model, encode(model, frames, chunk=3), QUESTION, TOKENS)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


def test_a_saved_checkpoint_loads_and_agrees(tmp_path):
    original = stock_model("dummy:tiny", seed=5)
    original.save_pretrained(tmp_path)
    donor = load_model("dummy:tiny", seed=5)
    tokenizer = donor.prompt._tokens._trusted
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (tmp_path / "preprocessor_config.json").write_text('{"min_pixels": 784, "max_pixels": 50176}')
    model = load_model(str(tmp_path))
    frames = random_frames(model, 3)
    tokens, _ = theirs(model, stock_model(str(tmp_path)), frames)
    assert ask(model, encode(model, frames, chunk=1), QUESTION, TOKENS)[0] == tokens
    assert model.fingerprint != donor.fingerprint


def test_bfloat16_is_close():
    model, stock = load_model("dummy:tiny", dtype="bfloat16"), stock_model("dummy:tiny")
    frames = random_frames(model, 4)
    _, logits = theirs(model, stock, frames)
    _, ours = ask(model, encode(model, frames, chunk=2), QUESTION, 1)
    assert model.layout.dtype == "bfloat16"
    assert torch.isfinite(ours).all()
    assert relative_error(ours[:1], logits[:1]) < 0.1
