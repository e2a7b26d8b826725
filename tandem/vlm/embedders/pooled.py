"""Tensor ring: the loaded model's own pooled vision features as an embedder, by two small learned maps.

A picture is the mean of its visual tokens through a linear map; a question is the mean of its tokens' vectors
in a table of their own. The table is not made of the language model's word embeddings, so that the maps
follow from the vision tower and the tokenizer alone and outlive a retrained language model. Both lie beside
the checkpoint in `RETRIEVAL_FILE`::

    vision       float32 [E, hidden]      vision_bias  float32 [E]
    words        float32 [vocabulary, E]  metadata "tokenizer": digest of the tokenizer that the rows follow
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tandem.core.errors import Incompatible, NotFound
from tandem.vlm.checkpoint import RETRIEVAL_FILE
from tandem.vlm.embedder import check_dim, unit_length
from tandem.vlm.fingerprint import digest_files
from tandem.vlm.model import VisualUnits
from tandem.vlm.tokens import Tokens

NAME = "pooled"
RETRAIN = "make it anew for this checkpoint (the default model's: scripts/train-default-model --pooled-only)"


@dataclass(frozen=True, slots=True)
class PooledMaps:
    """What the file holds."""

    vision: Tensor
    """[E, hidden]"""
    vision_bias: Tensor
    """[E]"""
    words: Tensor
    """[vocabulary, E]"""

    def of_tokens(self, embeds: Tensor) -> Tensor:
        """float32 [U, E] of length 1 from the visual tokens of units, [U, tokens, hidden]."""
        return unit_length(embeds.float().mean(1) @ self.vision.T + self.vision_bias)

    def of_words(self, token_ids: list[int]) -> Tensor:
        """float32 [E] of length 1; zeros without tokens that have a vector."""
        known = [token for token in token_ids if token < len(self.words)]
        return unit_length(self.words[known].sum(0))

    def save(self, folder: Path, tokens: Tokens) -> None:
        """Write the file beside a checkpoint."""
        fields = {"vision": self.vision, "vision_bias": self.vision_bias, "words": self.words}
        save_file(
            {name: value.float().contiguous() for name, value in fields.items()},
            folder / RETRIEVAL_FILE,
            metadata={"format": "pt", "tokenizer": tokens.digest},
        )
        (folder / RETRIEVAL_FILE).chmod(0o644)


class Pooled:
    """The embedder of a checkpoint that has the file. See `embedder.Embedder`."""

    name = NAME

    def __init__(self, maps: PooledMaps, tokens: Tokens, fingerprint: str, device: str) -> None:
        self.dim = len(maps.vision)
        self.fingerprint = fingerprint
        self._tokens = tokens
        # Pictures are embedded where the tower left them, questions on the CPU.
        self._pictures = PooledMaps(maps.vision.to(device), maps.vision_bias.to(device), maps.words)
        check_dim(NAME, self.dim)

    @staticmethod
    def is_offered(folder: Path) -> bool:
        """True when the checkpoint in this folder has the file."""
        return (folder / RETRIEVAL_FILE).is_file()

    @staticmethod
    def load(folder: Path, *, hidden: int, device: str = "cpu") -> Pooled:
        """From a checkpoint's folder; `hidden` is the width of its visual tokens.

        Raises NotFound without the file, Incompatible when it is damaged or belongs to another checkpoint.
        """
        if not Pooled.is_offered(folder):
            raise NotFound(
                f"{folder} has no {RETRIEVAL_FILE}, so it offers no pooled embeddings; "
                "name an image-text model (SigLIP or CLIP) instead, or switch the embedder off"
            )
        path, tokens = folder / RETRIEVAL_FILE, Tokens.load(folder)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                maps = PooledMaps(*(file.get_tensor(name).float() for name in PooledMaps.__slots__))
        except (SafetensorError, OSError) as error:
            raise Incompatible(f"{path} cannot be read ({error}); {RETRAIN}") from error
        _check(maps, hidden, path)
        if metadata.get("tokenizer") != tokens.digest:
            raise Incompatible(f"{path} was made with another tokenizer; {RETRAIN}")
        return Pooled(maps, tokens, digest_files([path]), device)

    @torch.no_grad()
    def pictures(self, frames: Tensor, seen: VisualUnits) -> Tensor:
        """See `embedder.Embedder`; the frames are not looked at again."""
        return self._pictures.of_tokens(seen.embeds)

    @torch.no_grad()
    def text(self, question: str) -> Tensor:
        """See `embedder.TextEmbedder`."""
        return self._pictures.of_words(self._tokens.user(question))


def _check(maps: PooledMaps, hidden: int, path: Path) -> None:
    shapes = [tuple(tensor.shape) for tensor in (maps.vision, maps.vision_bias, maps.words)]
    dim = maps.vision.numel() // hidden
    if shapes[:2] != [(dim, hidden), (dim,)] or len(shapes[2]) != 2 or shapes[2][1] != dim:
        raise Incompatible(f"{path} holds maps {shapes} that do not fit {hidden} wide tokens; {RETRAIN}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (maps.vision, maps.vision_bias, maps.words)):
        raise Incompatible(f"{path} holds numbers that are not finite; {RETRAIN}")
