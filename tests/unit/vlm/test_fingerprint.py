"""Whatever changes a block's bytes changes the fingerprint; who wrote the files, and how, does not."""

from __future__ import annotations

import json
import shutil

import pytest

from tandem.core.errors import Incompatible
from tandem.vlm.dummy import dummy_tokenizer
from tandem.vlm.fingerprint import digest_tokenizer, lasting
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model

PICTURES = {"min_pixels": 784, "max_pixels": 50176, "rescale_factor": 0.5, "image_std": [0.5, 0.5, 0.5]}
LAYOUT = {
    "layout": "timestamped",
    "sink": "<|im_start|>watch",
    "unit_prefix": "{SS}<|vision_start|>",
    "unit_suffix": "<|vision_end|>",
    "question": "{question}",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    stock = stock_model("dummy:tiny-timestamped")
    stock.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(dummy_tokenizer(stock.config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))
    (folder / "tandem_layout.json").write_text(json.dumps(LAYOUT))
    return folder, load_model(str(folder)).fingerprint


@pytest.fixture
def copy(original, tmp_path):
    return shutil.copytree(original[0], tmp_path / "copy")


def edit(path, change):
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields, indent=1))


def swap_tokens(fields):
    vocabulary = fields["model"]["vocab"]
    vocabulary["w"], vocabulary["x"] = vocabulary["x"], vocabulary["w"]


FACTS = {
    "norm": ("config.json", lambda f: f["text_config"].update(rms_norm_eps=1e-3)),
    "activation": ("config.json", lambda f: f["text_config"].update(hidden_act="gelu")),
    "vision window": ("config.json", lambda f: f["vision_config"].update(window_size=112)),
    "full attention": ("config.json", lambda f: f["vision_config"].update(fullatt_block_indexes=[3])),
    "rotary base": ("config.json", lambda f: f["text_config"]["rope_parameters"].update(rope_theta=1e5)),
    "token ids": ("tokenizer.json", swap_tokens),
    "merges": ("tokenizer.json", lambda f: f["model"]["merges"].append(["q", "z"])),
    "rescaling": ("preprocessor_config.json", lambda f: f.update(rescale_factor=0.25)),
    "mean": ("preprocessor_config.json", lambda f: f.update(image_mean=[0.5, 0.5, 0.5])),
    "deviation": ("preprocessor_config.json", lambda f: f.update(image_std=[0.4, 0.5, 0.5])),
    "least pixels": ("preprocessor_config.json", lambda f: f.update(min_pixels=1568)),
    "sink": ("tandem_layout.json", lambda f: f.update(sink="<|im_start|>look")),
    "unit prefix": ("tandem_layout.json", lambda f: f.update(unit_prefix="{MM}<|vision_start|>")),
    "question": ("tandem_layout.json", lambda f: f.update(question="{question}?")),
    "window": ("tandem_layout.json", lambda f: f.update(window_units=7)),
    "rate": ("tandem_layout.json", lambda f: f.update(fps=0.5)),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_changed_file_changes_it(original, copy, fact):
    name, change = FACTS[fact]
    edit(copy / name, change)
    if fact == "merges":
        # A merge needs its result in the vocabulary.
        edit(copy / name, lambda f: f["model"]["vocab"].update({"qz": 271}))
    assert load_model(str(copy)).fingerprint != original[1]


def test_changed_weights_change_it(original, copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copy)).fingerprint != original[1]


def test_a_copy_written_by_others_has_the_same(original, copy):
    def rewrite(fields):
        fields.update(transformers_version="9.9", _name_or_path="/elsewhere", torch_dtype="float16")
        fields["text_config"].update(dtype="float16", use_cache=False)
        for name in reversed(list(fields)):
            fields[name] = fields.pop(name)

    edit(copy / "config.json", rewrite)
    edit(copy / "tokenizer.json", lambda fields: fields.update(padding=None))
    assert load_model(str(copy), dtype="float32").fingerprint == original[1]


@pytest.mark.parametrize("layout", ["timestamped", "native"])
def test_how_notes_are_taken_changes_no_block(copy, layout):
    edit(copy / "tandem_layout.json", lambda f: f.update(layout=layout))
    before = load_model(str(copy))
    assert (before.prompt.note_prompt, before.prompt.note_tokens, before.prompt.shelf_tokens) == ("", 0, None)
    notes = {
        "note_prompt": "list {start} to {end}",
        "note_tokens": 9,
        "shelf_tokens": 70,
        "note_alone": True,
        "note_stop": "x",
    }
    edit(copy / "tandem_layout.json", lambda f: f.update(notes))
    after = load_model(str(copy))
    assert {name: getattr(after.prompt, name) for name in notes} == notes
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    "notes",
    [
        {"note_prompt": 5},
        {"note_prompt": "x" * 2001},
        {"note_tokens": 1025},
        {"shelf_tokens": -1},
        {"note_alone": 1},
        {"note_stop": 2},
    ],
)
def test_notes_that_no_watcher_could_take_are_refused(copy, notes):
    edit(copy / "tandem_layout.json", lambda f: f.update(notes))
    with pytest.raises(Incompatible, match=next(iter(notes))):
        load_model(str(copy))


def test_the_resampling_counts_and_what_is_installed_does_not(monkeypatch):
    import importlib.util

    plain = load_model("dummy:tiny")
    assert load_model("dummy:tiny", resampling="pillow").fingerprint != plain.fingerprint
    found = importlib.util.find_spec
    for installed in (None, found("json")):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *a, it=installed: it if name == "torchvision" else found(name, *a),
        )
        again = load_model("dummy:tiny")
        assert (again.fingerprint, again.pictures.resampling) == (plain.fingerprint, "torchvision")


def test_the_native_prompt_counts(monkeypatch):
    before = load_model("dummy:tiny").fingerprint
    monkeypatch.setattr("tandem.vlm.families.qwen2_5_vl.SYSTEM", "You are a parrot.")
    assert load_model("dummy:tiny").fingerprint != before


def test_merges_are_the_same_in_both_spellings():
    def specification(merges):
        return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": merges}}

    assert digest_tokenizer(specification(["a b"])) == digest_tokenizer(specification([["a", "b"]]))
    assert digest_tokenizer(specification([])) != digest_tokenizer(specification([["a", "b"]]))


def test_volatile_keys_go_at_any_depth():
    config = {"a": [{"dtype": "float16", "b": 1}], "use_cache": True, "c": {"_name_or_path": "x"}}
    assert lasting(config) == {"a": [{"b": 1}], "c": {}}
