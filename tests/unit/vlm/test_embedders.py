"""Embedders: vectors in headers, SigLIP and CLIP against transformers itself, and what cannot be loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from kv_transfer.header import LENGTH_TOLERANCE
from tandem.core.errors import Incompatible, InvalidInput, NotFound
from tandem.shapes.evaluate import MODEL_FOLDER
from tandem.vlm.checkpoint import RETRIEVAL_FILE
from tandem.vlm.embedder import from_bytes, to_bytes, unit_length
from tandem.vlm.embedders.pick import load_embedder, load_text_embedder
from tandem.vlm.load import load_model
from tandem.vlm.model import VisualUnits

TEXT = {"vocab_size": 16, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 12}
VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
WORDS = ("<pad>", "<eos>", "<bos>", "<unk>", "what", "colour", "was", "the", "red", "star", "?")
UNSEEN = VisualUnits(torch.zeros(0), (1, 1, 1))
"""These embedders look at the frames alone."""


def siglip() -> tuple[Any, Any]:
    config = SiglipConfig(text_config=TEXT | IDS, vision_config=VISION | {"image_size": 32, "patch_size": 8})
    return SiglipModel(config), SiglipImageProcessorPil(size={"height": 32, "width": 32})


def siglip2() -> tuple[Any, Any]:
    vision = VISION | {"num_patches": 16, "patch_size": 8}
    model = Siglip2Model(Siglip2Config(text_config=TEXT | IDS, vision_config=vision))
    return model, Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)


def clip() -> tuple[Any, Any]:
    vision = VISION | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=TEXT | IDS, vision_config=vision, projection_dim=20))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return model, CLIPImageProcessorPil(**sizes)


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


MAKERS: list[Callable[[], tuple[Any, Any]]] = [siglip, siglip2, clip]


def save(folder: Path, make: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    torch.manual_seed(3)
    model, processor = make()
    for part in (model, processor, tokenizer()):
        part.save_pretrained(folder)
    return model.eval(), processor


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_embeddings_are_transformers_own_features(make: Any, tmp_path: Path) -> None:
    model, processor = save(tmp_path, make)
    embedder = load_embedder(str(tmp_path), "default")
    assert embedder is not None
    frames = torch.randint(0, 256, (3, 2, 40, 56, 3), dtype=torch.uint8)
    found = embedder.pictures(frames, UNSEEN)
    assert found.shape == (3, embedder.dim)
    assert found.dtype == torch.float32
    inputs = processor(images=[frame.numpy() for frame in frames[:, -1]], return_tensors="pt")
    with torch.no_grad():
        expected = model.get_image_features(**inputs).pooler_output
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
    assert not torch.allclose(found[0], found[1], atol=1e-4)

    padding: Any = {"padding": "max_length", "max_length": 12} if make is not clip else {"padding": False}
    # Loaded as transformers loads it: for some kinds it changes how texts are cut and padded.
    words = AutoTokenizer.from_pretrained(tmp_path)
    for question in ("what colour was the red star ?", "the star"):
        inputs = words([question], return_tensors="pt", **padding)
        with torch.no_grad():
            expected = model.get_text_features(**inputs).pooler_output[0]
        torch.testing.assert_close(embedder.text(question), torch.nn.functional.normalize(expected, dim=-1))
    assert embedder.text("star " * 500).norm() == pytest.approx(1)


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_text_half_stands_alone_and_is_the_same(make: Any, tmp_path: Path) -> None:
    save(tmp_path, make)
    whole, half = load_embedder(str(tmp_path), "default"), load_text_embedder(str(tmp_path), "default")
    assert whole is not None
    assert half is not None
    assert (half.name, half.dim, half.fingerprint) == (whole.name, whole.dim, whole.fingerprint)
    assert torch.equal(half.text("the red star"), whole.text("the red star"))
    assert half._model.vision_model is None  # type: ignore[attr-defined]


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    save(tmp_path, siglip)
    before = load_text_embedder(str(tmp_path), "default")
    weights = load_file(tmp_path / "model.safetensors")
    weights["text_model.head.bias"] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    after = load_text_embedder(str(tmp_path), "default")
    assert before is not None
    assert after is not None
    assert len(before.fingerprint) == 32
    assert before.fingerprint != after.fingerprint


def test_what_is_no_embedder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="qwen2_5_vl"):
        load_embedder(str(MODEL_FOLDER), "default")
    with pytest.raises(NotFound, match="hub name"):
        load_embedder("no such place", "default")
    save(tmp_path, clip)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Incompatible, match="text_projection"):
        load_embedder(str(tmp_path), "default")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(Incompatible, match="safetensors"):
        load_embedder(str(tmp_path), "default")


def test_pooled_is_offered_only_with_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, folder)
    whole = load_model(str(folder))
    auto = load_embedder("auto", str(folder))
    assert auto is not None
    assert auto.name == "pooled"
    (folder / RETRIEVAL_FILE).unlink()
    assert load_embedder("auto", str(folder)) is None
    with pytest.raises(NotFound, match="SigLIP"):
        load_embedder("pooled", str(folder))
    assert load_model(str(folder)).fingerprint == whole.fingerprint, "keys and values do not follow from it"


def test_off_and_random_weights_have_none() -> None:
    for name in ("", "off"):
        assert load_embedder(name, "default") is None
        assert load_text_embedder(name, "default") is None
    assert load_embedder("auto", "dummy:tiny") is None
    assert load_embedder("auto", "default", load_format="dummy") is None
    with pytest.raises(Incompatible, match="random"):
        load_embedder("pooled", "default", load_format="dummy")


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(fields: dict[str, torch.Tensor]) -> None:
        del fields[name]

    return change


def narrower(fields: dict[str, torch.Tensor]) -> None:
    fields["vision"] = fields["vision"][:, :100].contiguous()


def other_space(fields: dict[str, torch.Tensor]) -> None:
    fields["words"] = fields["words"][:, :5].contiguous()


def scalar(fields: dict[str, torch.Tensor]) -> None:
    fields["vision"] = torch.tensor(1.0)


def broken(fields: dict[str, torch.Tensor]) -> None:
    fields["words"][3, 3] = float("nan")


@pytest.mark.parametrize("change", [without("vision"), narrower, other_space, scalar, broken])
def test_pooled_maps_that_do_not_fit_are_refused(change: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, folder)
    fields = {name: value.clone() for name, value in load_file(folder / RETRIEVAL_FILE).items()}
    change(fields)
    save_file(fields, folder / RETRIEVAL_FILE)
    with pytest.raises(Incompatible, match="pooled-only"):
        load_embedder("auto", str(folder))


def test_damaged_and_foreign_pooled_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, folder)
    tokenizer_file = folder / "tokenizer.json"
    tokenizer_file.write_text(tokenizer_file.read_text().replace('"star"', '"starfish"'))
    with pytest.raises(Incompatible, match="another tokenizer"):
        load_embedder("pooled", str(folder))
    (folder / RETRIEVAL_FILE).write_bytes(b"\1" * 100)
    with pytest.raises(Incompatible, match="pooled-only"):
        load_embedder("pooled", str(folder))


def test_vectors_go_through_headers() -> None:
    vectors = unit_length(torch.randn(4, 4096))
    for row, packed in zip(vectors, to_bytes(vectors), strict=True):
        assert len(packed) == 8192
        back = from_bytes(packed)
        assert abs(float(back.norm()) - 1) < LENGTH_TOLERANCE / 10
        assert float(back @ row) > 0.999
    assert to_bytes(torch.tensor([[1.0, 0.0]])) == [b"\x00\x3c\x00\x00"], "little-endian halves"
    for wrong in (b"", b"abc"):
        with pytest.raises(InvalidInput):
            from_bytes(wrong)


def test_what_has_no_direction_has_no_embedding() -> None:
    rows = torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [3.0, 4.0]])
    vectors = unit_length(rows)
    torch.testing.assert_close(vectors, torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.6, 0.8]]))
    assert [len(packed) for packed in to_bytes(vectors)] == [0, 0, 0, 4]
