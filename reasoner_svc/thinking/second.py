"""Tensor. A second question beside a question: prefill only, and one choice between two tokens.

It sees the sink that opens every prompt and its own text: no video, no notes, nothing of the first question
but what its prompt quotes. Owned by the engine's thread. V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.model import Step, VisionLanguageModel
from tandem.vlm.view import Part, View

MAX_TOKENS = 16_384
"""Of its prompt: its texts are cut by characters."""


class SecondQuestion:
    """One prompt on its way through the model."""

    def __init__(self, model: VisionLanguageModel, text: str) -> None:
        self._model = model
        self.ids = tuple(model.prompt.question_tokens(text, max_tokens=MAX_TOKENS))
        self._segment = model.new_segment(len(self.ids))
        self._base = torch.tensor(model.prompt.placement().after_units())

    @property
    def left(self) -> int:
        """Tokens to read."""
        return len(self.ids) - self._segment.length

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._segment.nbytes

    def step(self, sink: Part, tokens: int) -> Step:
        """Read more of it."""
        first = self._segment.length
        ids = self.ids[first : first + tokens]
        return Step(
            embeds=self._model.embed(ids),
            positions=self._base[:, None] + torch.arange(first, first + len(ids)),
            view=View(parts=(sink,), tail=Part(segment=self._segment)),
        )


def says_yes(logits: Tensor, yes: int, no: int) -> bool:
    """The likelier of two tokens, of logits [V]."""
    return bool(logits[yes] > logits[no])
