"""Shell ring: finds a model's files and makes transformers' model from them, unaltered.

Reads safetensors only, never runs code from a checkpoint, and says what is wrong with what it cannot load.
"""

from __future__ import annotations

import importlib.resources
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from tandem.core.errors import Incompatible, InvalidInput, NotFound, Unavailable
from tandem.vlm import dummy
from tandem.vlm.families.base import Family
from tandem.vlm.families.qwen2_5_vl import Qwen25VL
from tandem.vlm.fingerprint import digest_files, lasting

log = logging.getLogger(__name__)

FAMILIES: tuple[Family, ...] = (Qwen25VL(),)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["*.safetensors", "*.json"]
RETRIEVAL_FILE = "retrieval.safetensors"
"""Maps of the pooled embedder (`embedders.pooled`) beside the weights; KV does not follow from them."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is known of a model before its weights are read."""

    source: str
    folder: Path | None
    """None for a builtin configuration."""
    config: Any
    family: Family
    layout: dict[str, Any]
    """tandem_layout.json; empty for a native layout."""
    pictures: dict[str, Any] | Path
    """Picture processing of a builtin, or the folder that has it."""
    dummy_seed: int | None
    """Seed of random weights; None: real ones."""
    revision: str | None

    def default_dtype(self, device: str) -> torch.dtype:
        """float32 on CPUs, where half precision is slow; the checkpoint's own elsewhere."""
        own = getattr(self.config, "dtype", None) or getattr(self.config.text_config, "dtype", None)
        if torch.device(device).type == "cpu":
            return torch.float32
        return own if isinstance(own, torch.dtype) else torch.bfloat16

    def weights_digest(self) -> str:
        """Names the weights: their bytes, or how random ones are drawn."""
        if self.dummy_seed is None:
            assert self.folder is not None
            return digest_files(weight_files(self.folder))
        return f"drawn from seed {self.dummy_seed}"

    def lasting_config(self) -> Any:
        """config.json as it is written, without what says nothing of the model.

        Not transformers' reading of it, which differs between versions.
        """
        written = (
            dummy.description(self.source) if self.folder is None else _read_json(self.folder / "config.json")
        )
        return lasting(written)

    def build(self, *, dtype: torch.dtype, device: str) -> Any:
        """Transformers' model with its weights, as transformers makes it."""
        if self.dummy_seed is not None:
            model = dummy.random_model(self.config, dtype=dtype, device=device, seed=self.dummy_seed)
        else:
            model = _read_weights(self, dtype).to(device)
        return model.eval().requires_grad_(requires_grad=False)


def weight_files(folder: Path) -> list[Path]:
    """The files of a checkpoint's own weights."""
    return [path for path in folder.glob("*.safetensors") if path.name != RETRIEVAL_FILE]


def find_checkpoint(source: str, *, load_format: str, revision: str | None, seed: int) -> Checkpoint:
    """Resolve a source (see `load.load_model`) without reading weights."""
    if load_format not in ("auto", "dummy"):
        raise InvalidInput(f"unknown load format {load_format!r}; there are: auto, dummy")
    if source.startswith(dummy.PREFIX):
        folder: Path | None = None
        pictures: dict[str, Any] | Path
        config, layout, pictures = dummy.builtin(source.removeprefix(dummy.PREFIX))
    else:
        pictures = folder = find_folder(source, revision)
        config, layout = _read_config(folder), _read_json(folder / "tandem_layout.json")
    is_dummy = load_format == "dummy" or folder is None
    return Checkpoint(
        source=source,
        folder=folder,
        config=config,
        family=FAMILIES[0] if folder is None else _family(config, folder),
        layout=layout,
        pictures=pictures,
        dummy_seed=seed if is_dummy else None,
        revision=revision,
    )


def find_folder(source: str, revision: str | None, files: Sequence[str] = HUB_FILES) -> Path:
    """The directory of a source; of a hub name, `files` are fetched. Raises NotFound, Unavailable."""
    if source == "default":
        folder = Path(str(importlib.resources.files("tandem") / "shapes" / "model"))
        if not (folder / "config.json").is_file():
            raise NotFound(f"the embedded default model is missing from {folder}; reinstall or train it")
        return folder
    path = Path(source).expanduser()
    if path.is_file() and path.name == "config.json":
        return path.parent
    if path.is_dir():
        return path
    if not HUB_NAME.fullmatch(source):
        raise NotFound(f"no model at {source!r}: not a directory, a config.json or a hub name (owner/name)")
    if not revision:
        log.warning("the model %s may change at the hub: --revision COMMIT is one that stays", source)
    return _download(source, revision, files)


def _download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except RepositoryNotFoundError as error:
        raise NotFound(f"no model {name!r}: no such directory, and the hub has no such repository") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(
            f"cannot fetch {name!r}: no such directory, and the hub cannot be reached ({error})"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Incompatible(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Incompatible(f"{path} holds no JSON object")
    return fields


def _read_config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} holds no config.json: it is not a model directory")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise Incompatible(f"transformers cannot read {folder / 'config.json'}: {error}") from error


def _family(config: Any, folder: Path) -> Family:
    names = set(getattr(config, "architectures", None) or ())
    for family in FAMILIES:
        if names & family.architectures or (not names and config.model_type == "qwen2_5_vl"):
            return family
    known = ", ".join(sorted(name for family in FAMILIES for name in family.architectures))
    shown = ", ".join(sorted(names)) or config.model_type
    raise Incompatible(f"{folder} is a {shown}; supported architectures: {known}")


def _read_weights(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    folder = checkpoint.folder
    assert folder is not None
    if not weight_files(folder):
        if any(path for pattern in PICKLES for path in folder.glob(pattern)):
            raise Incompatible(
                f"{folder} has only pickled weights, which can run code when loaded; "
                "save it as safetensors (model.save_pretrained) and load that"
            )
        raise NotFound(f"{folder} holds no *.safetensors weights (load_format='dummy' makes random ones)")
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, config=checkpoint.config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise Incompatible(f"the weights in {folder} do not fit its configuration: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if info["missing_keys"]:
        raise Incompatible(f"{folder} lacks weights: {', '.join(sorted(info['missing_keys'])[:5])} ...")
    return model
