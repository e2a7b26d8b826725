"""Tensor. The prompt and the generated text of one question on the device, and how its steps see them.

One segment holds both, as for a question without thinking, unless the generated text may lose tokens: then it
is a segment of its own, and the prompt stays whatever a policy does. Video and notes are not here at all.
Owned by the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from reasoner_svc.thinking.eviction import EvictedText
from reasoner_svc.thinking.heads import classed
from reasoner_svc.thinking.wish import ThinkingWish
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.view import Part, View

TEXT_TOKENS = 64
"""Room for generated tokens at first; the segment grows when the text is longer."""

Hook = Callable[[int, Tensor], None]


def in_order(stream: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts that `StreamRun.parts` gives (sink, recalled, notes, run) as they stand in the view."""
    sink, *rest = stream
    recalled = [part for part in rest if isinstance(part.segment, LayeredSegment)]
    newer = [part for part in rest if not isinstance(part.segment, LayeredSegment)]
    return (sink, *recalled, *reversed(newer))


class OwnText:
    """What one question reads and writes itself."""

    def __init__(self, model: VisionLanguageModel, wish: ThinkingWish, prompt_tokens: int) -> None:
        self._evicted: EvictedText | None = None
        self._classes = wish.heads
        room = prompt_tokens + TEXT_TOKENS
        if wish.eviction is not None:
            room = prompt_tokens
            segment = model.new_segment(TEXT_TOKENS)
            self._evicted = EvictedText(segment, wish.eviction, model.layout.layers, model.layout.kv_heads)
        self._segment = model.new_segment(room)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._segment.nbytes + (self._evicted.nbytes if self._evicted else 0)

    def reading(self, stream: tuple[Part, ...], hook: Hook | None) -> View:
        """What the prompt sees while it is read."""
        return View(parts=stream, tail=Part(segment=self._segment), before_layer=hook)

    def writing(self, stream: tuple[Part, ...], prompt_tokens: int) -> View:
        """What one generated token sees; `stream` is in the order of the view."""
        if self._classes is not None:
            parts, tail = classed(stream, self._segment, prompt_tokens, self._classes)
            return View(parts=parts, tail=tail)
        if self._evicted is None:
            return View(parts=stream, tail=Part(segment=self._segment))
        parts = (*stream, Part(segment=self._segment))
        return View(parts=parts, tail=Part(segment=self._evicted.segment), after_layer=self._evicted.watch)

    def cut(self, keep: int) -> None:
        """Forget all but the first `keep` tokens of prompt and text; nobody else reads them."""
        assert self._evicted is None, "places in an evicted text are no places in the line"
        self._segment.truncate(self._segment.start + keep)

    def wrote(self, position_31: Tensor) -> int:
        """A generated token went through; returns how many tokens left the view because of it."""
        return self._evicted.stepped(position_31) if self._evicted else 0
