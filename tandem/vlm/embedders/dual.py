"""Tensor ring: SigLIP, SigLIP 2 and CLIP checkpoints as embedders, through transformers' own classes.

Pictures and texts go through the checkpoint's own processor and tokenizer; no code of a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from tandem.core.errors import Incompatible
from tandem.vlm.checkpoint import HUB_FILES, find_folder, weight_files
from tandem.vlm.embedder import check_dim, unit_length
from tandem.vlm.fingerprint import digest_files
from tandem.vlm.model import VisualUnits

PADDED = frozenset({"siglip", "siglip2"})
"""Kinds trained on texts that were padded to full length: others' texts are as long as they are."""
KINDS = PADDED | {"clip"}
FILES = [*HUB_FILES, "*.model", "*.txt"]
"""With vocabularies: of SentencePiece, and of CLIP's older form."""
FACTS = ("*.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json", "*.model", "*.txt")
"""Files that embeddings follow from."""


class DualEncoder:
    """A picture tower and a text tower in one space. See `embedder.Embedder`.

    With `text_only` the picture tower is dropped after loading, and `pictures` must not be called.
    """

    def __init__(self, name: str, folder: Path, *, device: str, dtype: torch.dtype, text_only: bool) -> None:
        config = _read(folder, "config.json", AutoConfig)
        if config.model_type not in KINDS:
            known = ", ".join(sorted(KINDS))
            raise Incompatible(f"{folder} is a {config.model_type!r} model; embedders can be: {known}")
        if not weight_files(folder):
            raise Incompatible(f"{folder} holds no *.safetensors weights")
        options = {"config": config, "dtype": dtype, "use_safetensors": True}
        model, info = _read(folder, "the weights", AutoModel, **options, output_loading_info=True)
        if info["missing_keys"]:
            raise Incompatible(f"{folder} lacks weights: {', '.join(sorted(info['missing_keys'])[:5])} ...")
        self._model = model.eval().requires_grad_(requires_grad=False)
        if text_only:
            self._model.vision_model = None
        self._model.to(device)
        self._tokenizer = _read(folder, "the tokenizer", AutoTokenizer)
        self._processor = None if text_only else _read(folder, "the image processor", AutoImageProcessor)
        self._padded = config.model_type in PADDED
        self._max_tokens = int(config.text_config.max_position_embeddings)
        self._device = torch.device(device)
        self.name = name
        self.fingerprint = digest_files(sorted({path for glob in FACTS for path in folder.glob(glob)}))
        self.dim = len(self.text("a picture"))
        check_dim(name, self.dim)

    @staticmethod
    def load(
        name: str,
        *,
        revision: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        text_only: bool = False,
    ) -> DualEncoder:
        """From a directory or hub name. Raises NotFound, Unavailable (hub not reached), Incompatible."""
        folder = find_folder(name, revision, FILES)
        return DualEncoder(name, folder, device=device, dtype=dtype, text_only=text_only)

    @torch.no_grad()
    def pictures(self, frames: Tensor, seen: VisualUnits) -> Tensor:
        """See `embedder.Embedder`; only the frames are looked at."""
        assert self._processor is not None, "loaded for texts alone"
        last = [frame.numpy() for frame in frames[:, -1].cpu()]
        inputs = self._processor(images=last, input_data_format="channels_last", return_tensors="pt")
        inputs = inputs.to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        return unit_length(self._model.get_image_features(**inputs).pooler_output)

    @torch.no_grad()
    def text(self, question: str) -> Tensor:
        """See `embedder.TextEmbedder`; a text that is too long is cut."""
        inputs = self._tokenizer(
            [question],
            padding="max_length" if self._padded else False,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self._device)
        return unit_length(self._model.get_text_features(**inputs).pooler_output)[0].cpu()


def _read(folder: Path, what: str, kind: Any, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
    except ImportError as error:
        raise Incompatible(f"{what} of {folder} needs a package that is not installed: {error}") from error
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise Incompatible(f"transformers cannot read {what} of {folder}: {error}") from error
