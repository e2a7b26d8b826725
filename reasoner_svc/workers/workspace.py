"""Tensor. The segments of one question's workers, and the steps that read and write them.

Every text exists once: each worker's view lists the same segments at its own bases (`layouts.listing`). A
step that is finished is copied once, to the end of the history. Owned by the engine's thread. N new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reasoner_svc.workers.layouts import Kind, Layout, Lengths, Placed, listing
from tandem.vlm.model import Step, VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part, View

STEP_TOKENS = 64
"""Room for a step at first; its segment grows when it is longer."""


@dataclass(frozen=True, slots=True)
class Feed:
    """New tokens of one worker."""

    worker: int
    ids: Sequence[int]
    closes: bool = False
    """They are the last of the step that the worker closed."""


class Workspace:
    """What the workers of one question wrote."""

    def __init__(self, model: VisionLanguageModel, layout: Layout, count: int, prompt_tokens: int) -> None:
        self._model = model
        self._layout = layout
        self.prompt = model.new_segment(capacity=prompt_tokens)
        self._headers: dict[Kind, Segment] = {}
        self._history = model.new_segment(STEP_TOKENS) if layout.has_history else None
        self.work = [model.new_segment(STEP_TOKENS) for _ in range(count)]
        """Each worker's unfinished step."""
        self._closing: dict[int, Segment] = {}
        """In the order in which they join the history."""

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        history = [self._history] if self._history is not None else []
        segments = (self.prompt, *self._headers.values(), *history, *self.work, *self._closing.values())
        return sum(segment.nbytes for segment in segments)

    def close(self, worker: int, *, more: bool = False) -> None:
        """The worker's step is finished, but for `more` that `steps` feeds to it; it begins another."""
        if self._history is not None and (more or self.work[worker].length):
            self._closing[worker] = self.work[worker]
            self.work[worker] = self._model.new_segment(STEP_TOKENS)

    def is_closing(self, worker: int) -> bool:
        """True from `close` to `settle`."""
        return worker in self._closing

    def settle(self) -> None:
        """Move what was closed to the history: call it when a pass is through."""
        for segment in self._closing.values():
            assert self._history is not None, "a layout without history closed a step"
            self._history.append_from(segment, self._history.length)
        self._closing.clear()

    def read_header(self, kind: Kind, ids: Sequence[int], start: int, stream: tuple[Part, ...]) -> Step:
        """Read more of a header: right behind the prompt, and behind the header before it."""
        if kind not in self._headers:
            self._headers[kind] = self._model.new_segment(len(ids))
        parts = [*stream, Part(segment=self.prompt)]
        base, segment = start, self._headers[kind]
        before = self._headers.get(Kind.OTHERS)
        if kind is Kind.OWN and before is not None:
            parts.append(Part(segment=before, base=(start, start, start)))
            base += before.length
        return self._step(ids, base, segment.length, segment, tuple(parts))

    def steps(
        self,
        feeds: Sequence[Feed],
        start: int,
        stream: Callable[[int], tuple[Part, ...]],
        *,
        answers: bool = False,
    ) -> list[Step]:
        """The steps of one pass, in the order of the feeds.

        `start` is the position behind the prompt, `stream(N)` the parts of the stream for N queries. All that
        is fed is seen by everybody in this pass, but for what a worker writes behind its own closing step.
        """
        lengths = self._lengths(feeds)
        result = []
        for feed in feeds:
            places = listing(self._layout, feed.worker, lengths, start, closes=feed.closes, answers=answers)
            own, new = places[-1], len(feed.ids)
            parts = [*stream(new), Part(segment=self.prompt)]
            parts += [self._part(place) for place in places[:-1]]
            result.append(self._step(feed.ids, own.base, own.tokens - new, self._segment(own), tuple(parts)))
        return result

    def _lengths(self, feeds: Sequence[Feed]) -> Lengths:
        work = [segment.length for segment in self.work]
        closing = {worker: segment.length for worker, segment in self._closing.items()}
        for feed in feeds:
            if feed.closes:
                closing[feed.worker] += len(feed.ids)
            else:
                work[feed.worker] += len(feed.ids)
        return Lengths(
            work=work,
            history=self._history.length if self._history is not None else 0,
            closing=tuple(closing.items()),
            others=self._header_tokens(Kind.OTHERS),
            own=self._header_tokens(Kind.OWN),
        )

    def _header_tokens(self, kind: Kind) -> int:
        return self._headers[kind].length if kind in self._headers else 0

    def _segment(self, place: Placed) -> Segment:
        if place.kind is Kind.WORK:
            return self.work[place.worker]
        if place.kind is Kind.CLOSING:
            return self._closing[place.worker]
        if place.kind is Kind.HISTORY:
            assert self._history is not None, place
            return self._history
        return self._headers[place.kind]

    def _part(self, place: Placed) -> Part:
        segment = self._segment(place)
        base = (place.base, place.base, place.base)
        return Part(segment=segment, base=base, end=segment.start + place.tokens)

    def _step(
        self, ids: Sequence[int], base: int, held: int, segment: Segment, parts: tuple[Part, ...]
    ) -> Step:
        """`ids` behind the `held` tokens of a segment at `base`."""
        positions: Tensor = (base + held + torch.arange(len(ids))).expand(3, -1)
        view = View(parts=parts, tail=Part(segment=segment, base=(base, base, base)))
        return Step(embeds=self._model.embed(list(ids)), positions=positions, view=view)
