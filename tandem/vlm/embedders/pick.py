"""Shell ring: from a setting to an embedder, or to none. The one place that knows all of them."""

from __future__ import annotations

from pathlib import Path

import torch

from tandem.core.errors import Incompatible
from tandem.vlm.checkpoint import DTYPES, Checkpoint, find_checkpoint
from tandem.vlm.embedder import Embedder, TextEmbedder
from tandem.vlm.embedders import pooled
from tandem.vlm.embedders.dual import DualEncoder
from tandem.vlm.embedders.pooled import Pooled

AUTO = "auto"
"""The pooled features where the checkpoint offers them, else none."""
OFF = ("", "off")


def load_embedder(
    name: str,
    model: str,
    *,
    load_format: str = "auto",
    device: str = "cpu",
    revision: str | None = None,
    model_revision: str | None = None,
) -> Embedder | None:
    """The embedder called `name` for the checkpoint `model` (source, format and revision as for
    `load.load_model`).

    `name`: ``"pooled"`` (the checkpoint's own), a directory or hub name of a SigLIP, SigLIP 2 or CLIP
    checkpoint (of which `revision` is one), ``"auto"`` (pooled where it is offered, else None), ``"off"`` or
    empty (None). Raises NotFound, Unavailable (hub not reached), Incompatible.
    """
    if name in OFF:
        return None
    if name in (AUTO, pooled.NAME):
        return _pooled(name, model, load_format, device, model_revision)
    return DualEncoder.load(name, revision=revision, device=device, dtype=_dtype(device))


def load_text_embedder(
    name: str,
    model: str,
    *,
    load_format: str = "auto",
    device: str = "cpu",
    revision: str | None = None,
    model_revision: str | None = None,
) -> TextEmbedder | None:
    """Like `load_embedder`, but only the half that embeds questions, without a picture tower."""
    if name in (*OFF, AUTO, pooled.NAME):
        return load_embedder(
            name, model, load_format=load_format, device=device, model_revision=model_revision
        )
    return DualEncoder.load(name, revision=revision, device=device, dtype=_dtype(device), text_only=True)


def _pooled(name: str, model: str, load_format: str, device: str, revision: str | None) -> Pooled | None:
    checkpoint = find_checkpoint(model, load_format=load_format, revision=revision, seed=0)
    folder = _trained_folder(checkpoint)
    if name == AUTO and (folder is None or not Pooled.is_offered(folder)):
        return None
    if folder is None:
        raise Incompatible(f"{model!r} has random weights: its vision features mean nothing to compare")
    return Pooled.load(folder, hidden=checkpoint.config.text_config.hidden_size, device=device)


def _trained_folder(checkpoint: Checkpoint) -> Path | None:
    return checkpoint.folder if checkpoint.dummy_seed is None else None


def _dtype(device: str) -> torch.dtype:
    """As models are loaded: half precision is slow on CPUs."""
    return DTYPES["float32" if torch.device(device).type == "cpu" else "bfloat16"]
