"""Loading says what is wrong and what to do; the fingerprint covers what makes KV incompatible."""

from __future__ import annotations

import json

import pytest
import torch

from tandem.core.errors import BadMedia, Incompatible, InvalidInput, NotFound
from tandem.vlm.load import load_model


def test_missing_things_are_named(tmp_path):
    with pytest.raises(NotFound, match="not a directory"):
        load_model(str(tmp_path / "nowhere" / "at" / "all"))
    with pytest.raises(NotFound, match=r"no config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(NotFound, match=r"dummy:qwen2\.5-vl-7b"):
        load_model("dummy:huge")


def write_config(folder, **fields):
    config = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", **fields}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_another_architecture_is_refused(tmp_path):
    source = write_config(tmp_path, architectures=["LlamaForCausalLM"], model_type="llama")
    with pytest.raises(Incompatible, match=r"LlamaForCausalLM.*Qwen2_5_VLForConditionalGeneration"):
        load_model(source)


def test_a_broken_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Incompatible):
        load_model(str(tmp_path))


def test_pickles_are_never_opened(tmp_path):
    source = write_config(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(Incompatible, match="safetensors"):
        load_model(source)


def test_no_weights_at_all(tmp_path):
    with pytest.raises(NotFound, match="safetensors"):
        load_model(write_config(tmp_path))


def test_missing_weights_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    from tandem.vlm.unsplit import stock_model

    stock_model("dummy:tiny").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if "k_proj.weight" in name))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Incompatible, match="lacks weights"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        {"dtype": "int8"},
        {"device": "abacus"},
        {"backend": "magic"},
        {"load_format": "pickle"},
        {"resampling": "x"},
    ],
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(InvalidInput):
        load_model("dummy:tiny", **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="gpu: there is one")
def test_a_missing_gpu_is_named():
    with pytest.raises(InvalidInput, match="no CUDA device"):
        load_model("dummy:tiny", device="cuda")


def test_fingerprints_differ_where_kv_does():
    variants = [
        load_model("dummy:tiny"),
        load_model("dummy:tiny", seed=1),
        load_model("dummy:tiny", dtype="bfloat16"),
        load_model("dummy:tiny", max_pixels=28 * 28 * 8),
        load_model("dummy:tiny", fps=1.0),
        load_model("dummy:tiny-timestamped"),
    ]
    prints = [model.fingerprint for model in variants]
    assert len(set(prints)) == len(prints)
    assert all(len(text) == 32 and int(text, 16) >= 0 for text in prints)
    assert load_model("dummy:tiny", backend="reference").fingerprint == prints[0]


def test_the_default_model_loads_and_sees():
    model = load_model("default")
    assert model.prompt.name == "timestamped"
    assert model.prompt.window_units
    seen = model.see(torch.zeros(2, 1, 56, 56, 3, dtype=torch.uint8))
    assert seen.embeds.shape == (2, 4, model.hf.config.text_config.hidden_size)
    assert seen.grid == model.grid(56, 56) == (1, 2, 2)


def test_an_impossible_picture_is_bad_media():
    model = load_model("dummy:tiny")
    with pytest.raises(BadMedia, match="aspect"):
        model.see(torch.zeros(1, 2, 1, 500, 3, dtype=torch.uint8))


def test_the_pixel_budget_bounds_the_grid():
    model = load_model("dummy:tiny", max_pixels=28 * 28 * 8)
    t, h, w = model.grid(1080, 1920)
    assert t * h * w <= 8
