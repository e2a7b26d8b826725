"""Tensor. A note whose view grows while it is written (Think-as-You-See, arXiv 2603.02872, section 3).

Before every pass the view takes in what has arrived, so that each token sees exactly the blocks that were
there when it was made: the mask is causal by arrival, and nothing is computed again. The text stands behind
the video; when the video grows, the bases of prompt and text move, and queries turn::

    one line       sink | video ........ ▸ | notes | prompt | stamp, text ▸
    two counters   sink | video ........ ▸ | prompt            counted from 0 along the video
                   notes | stamp, text ▸                       counted from 0 apart from it

The engine's thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from reasoner_svc.decode.question import Phase
from reasoner_svc.notes.pace import Pace
from reasoner_svc.notes.taking import NoteTaking
from reasoner_svc.notes.view import Arrival
from reasoner_svc.view.compose import ViewPlan
from tandem.core.timeline import TimeRange
from tandem.vlm.model import Step
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part, View


class GrowingNote(NoteTaking):
    """One note of a concurrent watcher on its way through the model."""

    def __init__(self, *args: Any, on_seen: Callable[[TimeRange, Arrival], None], **options: Any) -> None:
        """See `NoteTaking`. `on_seen` is told what the note is about by now, whenever its view has grown."""
        super().__init__(*args, **options)
        self._on_seen = on_seen
        self._seen: tuple[int, int] | None = None
        self._prompt: Segment | None = None

    @property
    def tail_bytes(self) -> int:
        """See `HeldQuestion`."""
        return super().tail_bytes + (self._prompt.nbytes if self._prompt else 0)

    @property
    def _before_answer(self) -> int:
        return self._kept_from

    def prepare(self, tokens: int) -> list[Step]:
        """See `HeldQuestion`. Prompt and text go in passes of their own."""
        assert self._run is not None, "not begun"
        assert self._lease is not None, "not begun"
        self._began_s = self._clock()
        plan = self._run.renew(self._lease, self._before_answer)
        self._saw(plan)
        if not tokens:
            self._stepping = 0
            return [self._step_on(self._tail, self.progress.token_ids[-1:], plan)]
        start = self.progress.prefilled
        is_text = start >= self._kept_from
        ids = self.asked.prompt_ids[start : None if is_text else self._kept_from][:tokens]
        self._stepping = len(ids)
        return [self._step_on(self._tail if is_text else self._prompt, ids, plan)]

    def _saw(self, plan: ViewPlan) -> None:
        if plan.numbers != self._seen:
            self._seen = plan.numbers
            self._time = TimeRange(self._time.start_us, max(self._time.end_us, plan.watermark_us))
            self._on_seen(self._time, Arrival(self._through, plan.numbers))

    def _step_on(self, segment: Segment | None, ids: Sequence[int], plan: ViewPlan) -> Step:
        """`ids` behind what a segment holds."""
        assert segment is not None, "not begun"
        is_text = segment is self._tail
        text = plan.answer_start
        base = torch.tensor((text, text, text) if is_text else plan.question_base)
        parts = self._parts(len(ids))
        if is_text and self._prompt is not None:
            parts += (Part(segment=self._prompt, base=plan.question_base),)
        return Step(
            embeds=self._model.embed(ids),
            positions=base[:, None] + segment.length + torch.arange(len(ids)),
            view=View(parts=parts, tail=Part(segment=segment, base=base)),
            capture=is_text,
        )

    def _hold(self, pace: Pace) -> None:
        """What slides out of the growing view is let go of."""

    def _open(self) -> None:
        super()._open()
        self._prompt = self._model.new_segment(capacity=self._kept_from)

    def _leave(self, phase: Phase) -> None:
        super()._leave(phase)
        self._prompt = None
