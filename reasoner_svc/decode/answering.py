"""Tensor. One question answered by one line of tokens: its tail, its text. Owned by the engine's thread.

T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reasoner_svc.decode.held import HeldQuestion
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, Phase
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.decode.speech import Speech
from tandem.core.clock import Clock
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part, View

TAIL_TOKENS = 64
"""Room for answer tokens at first; the tail grows when an answer is longer."""


class Answering(HeldQuestion):
    """One question on its way through the model."""

    def __init__(
        self,
        number: int,
        model: VisionLanguageModel,
        asked: AskedQuestion,
        outbox: Outbox,
        clock: Clock,
        recaller: Recaller | None = None,
    ) -> None:
        super().__init__(number, model, asked, outbox, clock, recaller)
        self._sampler = Sampler(asked.sampling)
        self._speech = Speech(model.prompt, asked.stops, outbox)
        self._tail: Segment | None = None
        self._stepping = 0
        """Prompt tokens in the pass that was prepared."""

    @property
    def waiting(self) -> Waiting:
        """See `HeldQuestion`."""
        left = len(self.asked.prompt_ids) - self.progress.prefilled
        return Waiting(self.number, self.progress.phase, left, whole=left > 0 and self._reads_whole)

    @property
    def tail_bytes(self) -> int:
        """See `HeldQuestion`."""
        return self._tail.nbytes if self._tail else 0

    def prepare(self, tokens: int) -> list[Step]:
        """See `HeldQuestion`."""
        made = self.progress.token_ids
        if not tokens:
            self._stepping = 0
            position = self._plan.answer_start + len(made) - 1
            return [self._step((made[-1],), torch.full((3, 1), position))]
        ids, positions, hook = self._next_prompt(tokens)
        self._stepping = len(ids)
        return [self._step(ids, positions, hook)]

    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """See `HeldQuestion`."""
        return [results[-1].hidden[-1]] if self._prompt_read(self._stepping) else []

    def choose(self, logits: Tensor) -> None:
        """See `HeldQuestion`."""
        self._chosen(self._sampler.choose(logits[0]))

    def _chosen(self, token: int) -> None:
        if self.progress.phase is Phase.PREFILL:
            self.progress.prefilled_s = self._clock()
            self.progress.move(Phase.DECODING)
        self._take(token)

    def _open(self) -> None:
        room = len(self.asked.prompt_ids) + min(self.asked.max_tokens, TAIL_TOKENS)
        self._tail = self._model.new_segment(capacity=room)

    def _free(self) -> None:
        self._tail = None

    def _step(
        self, ids: tuple[int, ...], positions: Tensor, hook: Callable[[int, Tensor], None] | None = None
    ) -> Step:
        assert self._tail is not None, "not begun"
        view = View(parts=self._parts(len(ids)), tail=Part(segment=self._tail), before_layer=hook)
        return Step(embeds=self._model.embed(ids), positions=positions, view=view)

    def _take(self, token: int) -> None:
        if token in self._model.prompt.eos_ids:
            self._finish(Finish.END)
            return
        self.progress.token_ids.append(token)
        if self._speech.push(token):
            self._finish(Finish.STOP)
        elif len(self.progress.token_ids) >= self.asked.max_tokens:
            self._finish(Finish.LENGTH)

    def _finish(self, finish: Finish) -> None:
        if finish is not Finish.STOP and self._speech.finish():
            finish = Finish.STOP
        plan, recall = self._plan, self._recall
        self._leave(Phase.DONE)
        self._outbox.end(
            AnswerRecord.of(self.asked, self.progress, plan, recall, text=self._speech.text, finish=finish)
        )
