"""Nothing leaks between calls, and a model's own sliding window never acts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tandem.core.errors import Incompatible
from tandem.vlm.load import load_model
from tests.parity.split_pipeline import ask, encode, random_frames, real_heads_checkpoint


def test_threads_get_the_results_of_a_serial_run():
    model = load_model("dummy:tiny")

    def run(seed):
        frames = random_frames(model, 4, seed=seed)
        return ask(model, encode(model, frames, chunk=1 + seed % 3), f"question {seed}?", 6)

    serial = [run(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(run, range(6)))
    for (tokens, logits), (other_tokens, other_logits) in zip(serial, threaded, strict=True):
        assert tokens == other_tokens
        assert torch.equal(logits, other_logits)


def test_a_failed_step_leaves_the_tail_as_it_was():
    from tandem.vlm.view import Part, View
    from tests.parity.split_pipeline import text_positions

    model = load_model("dummy:tiny")
    tail = model.new_segment()

    def fail(layer, queries):
        if layer == 1:
            raise RuntimeError("the disk is gone")

    good = View(tail=Part(segment=tail))
    model.forward(model.embed([1, 2, 3]), text_positions(0, 3), good)
    with pytest.raises(RuntimeError, match="disk"):
        model.forward(
            model.embed([4]),
            text_positions(3, 1),
            View(tail=Part(segment=tail), before_layer=fail),
        )
    assert tail.end == 3
    again = model.forward(model.embed([4]), text_positions(3, 1), good).hidden
    fresh = View(tail=Part(segment=model.new_segment()))
    whole = model.forward(model.embed([1, 2, 3, 4]), text_positions(0, 4), fresh).hidden
    torch.testing.assert_close(again[-1], whole[-1], rtol=1e-5, atol=1e-5)


def edited_config(folder, **text):
    import json

    real_heads_checkpoint(folder)
    fields = json.loads((folder / "config.json").read_text())
    fields["text_config"] |= {"hidden_size": 64, "num_attention_heads": 4, **text}
    fields["text_config"]["rope_parameters"]["mrope_section"] = [2, 3, 3]
    fields["vision_config"]["out_hidden_size"] = 64
    (folder / "config.json").write_text(json.dumps(fields))
    return load_model(str(folder), load_format="dummy")


def test_a_sliding_window_that_is_switched_off_does_nothing(tmp_path):
    """Real checkpoints carry sliding_window=32768 beside use_sliding_window=false; a small one would show."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = edited_config(tmp_path / "a")
    windowed = edited_config(tmp_path / "b", sliding_window=2, use_sliding_window=False, max_window_layers=0)
    frames = random_frames(plain, 4, 56, 56)
    ours, logits = ask(windowed, encode(windowed, frames, chunk=2), "is it cut off?", 4)
    theirs, their_logits = ask(plain, encode(plain, frames, chunk=2), "is it cut off?", 4)
    assert ours == theirs
    assert torch.equal(logits, their_logits)


def test_a_sliding_window_that_is_switched_on_is_refused(tmp_path):
    with pytest.raises(Incompatible, match="sliding_attention"):
        edited_config(tmp_path, sliding_window=2, use_sliding_window=True, max_window_layers=0)
