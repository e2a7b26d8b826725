"""Tensor. One question being answered: its view, its tail, its tokens. Owned by the engine's thread.

Everything it holds on the device (the tail, the lease on its stream's run) is given back the moment it
ends, however it ends. T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, Phase, Progress
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.decode.stop import StopMatcher
from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.view.recall import Recall
from reasoner_svc.view.run import Lease, StreamRun
from tandem.core.clock import Clock
from tandem.core.errors import TandemError
from tandem.vlm.model import Step, VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.view import Part, View

TAIL_TOKENS = 64
"""Room for answer tokens at first; the tail grows when an answer is longer."""


class Answering:
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
        self.number = number
        self.asked = asked
        self.cancelled = False
        """Set from any thread; the engine looks before every step."""
        self.progress = Progress()
        self._model = model
        self._outbox = outbox
        self._clock = clock
        self._recaller = recaller
        self._sampler = Sampler(asked.sampling)
        self._words = model.prompt.text_stream()
        self._stop = StopMatcher(asked.stops)
        self._run: StreamRun | None = None
        self._lease: Lease | None = None
        self._tail: Segment | None = None
        self._stepping = 0
        """Prompt tokens in the pass that was prepared."""
        self._recall_error: Exception | None = None

    @property
    def _recall(self) -> Recall | None:
        return self._lease.recall if self._lease else None

    @property
    def waiting(self) -> Waiting:
        """What the schedule needs to know."""
        left = len(self.asked.prompt_ids) - self.progress.prefilled
        return Waiting(self.number, self.progress.phase, left)

    @property
    def tail_bytes(self) -> int:
        """Device bytes of its own."""
        return self._tail.nbytes if self._tail else 0

    def begin(self, run: StreamRun) -> None:
        """Compose the view and take what is needed. Raises WrongState, DataLost or BadQuestion."""
        prompt_tokens = len(self.asked.prompt_ids)
        self._lease = run.lease(
            prompt_tokens=prompt_tokens,
            as_of_us=self.asked.as_of_us,
            request=self._recaller.request(self.asked, run) if self._recaller else None,
            make_recall=self._recaller.maker(self.asked) if self._recaller else None,
        )
        self._run = run
        room = prompt_tokens + min(self.asked.max_tokens, TAIL_TOKENS)
        self._tail = self._model.new_segment(capacity=room)
        self.progress.move(Phase.PREFILL)
        self.progress.started_s = self._clock()

    def prepare(self, prompt_tokens: int) -> Step:
        """Its part of the next pass: so many prompt tokens, or with 0 the newest token of the answer.

        With recall all of the prompt goes at once: each layer retrieves by the mean query of the question.
        """
        plan, made = self._plan(), self.progress.token_ids
        if not prompt_tokens:
            self._stepping = 0
            position = plan.answer_start + len(made) - 1
            return self._step((made[-1],), torch.full((3, 1), position))
        start, recall = self.progress.prefilled, self._recall
        count = len(self.asked.prompt_ids) if recall is not None else prompt_tokens
        ids = self.asked.prompt_ids[start : start + count]
        self._stepping = len(ids)
        base = torch.tensor(plan.question_base)
        hook = self._recall_layer if recall is not None else None
        return self._step(ids, base[:, None] + torch.arange(start, start + len(ids)), hook)

    def advance(self) -> bool:
        """What was prepared went through the model; True when a token is to be chosen now.

        Raises what went wrong while older blocks were recalled.
        """
        if self._recall_error is not None:
            raise self._recall_error
        self.progress.prefilled += self._stepping
        return self.progress.prefilled == len(self.asked.prompt_ids)

    def choose(self, logits: Tensor) -> None:
        """The next token, of logits [V]."""
        token = self._sampler.choose(logits)
        if self.progress.phase is Phase.PREFILL:
            self.progress.prefilled_s = self._clock()
            self.progress.move(Phase.DECODING)
        self._take(token)

    def fail(self, error: TandemError) -> None:
        """End with an error that the asker sees; nothing happens when it ended already."""
        if not self.progress.phase.final:
            self._leave(Phase.FAILED)
            self._outbox.end(error)

    def abandon(self, error: TandemError) -> None:
        """End because the asker left; `error` is for whoever still listens."""
        if not self.progress.phase.final:
            self._leave(Phase.CANCELLED)
            self._outbox.end(error)

    def _step(
        self, ids: tuple[int, ...], positions: Tensor, hook: Callable[[int, Tensor], None] | None = None
    ) -> Step:
        assert self._run is not None, "not begun"
        assert self._lease is not None, "not begun"
        assert self._tail is not None, "not begun"
        parts = self._run.parts(self._lease, len(ids))
        view = View(parts=parts, tail=Part(segment=self._tail), before_layer=hook)
        return Step(embeds=self._model.embed(ids), positions=positions, view=view)

    def _recall_layer(self, layer: int, raw_queries: Tensor) -> None:
        """A hook that never raises: the pass serves other questions too."""
        assert self._recall is not None
        if layer == 0:
            self._recall_error = None
        if self._recall_error is None:
            try:
                self._recall.before_layer(layer, raw_queries)
            except Exception as error:
                self._recall_error = error

    def _take(self, token: int) -> None:
        if token in self._model.prompt.eos_ids:
            self._finish(Finish.END)
            return
        self.progress.token_ids.append(token)
        if self._say(self._words.push(token)):
            self._finish(Finish.STOP)
        elif len(self.progress.token_ids) >= self.asked.max_tokens:
            self._finish(Finish.LENGTH)

    def _say(self, text: str) -> bool:
        """Release what is certain; True when a stop text was met."""
        released = self._stop.push(text)
        self._send(released.text)
        return released.stopped

    def _send(self, text: str) -> None:
        if text:
            self.progress.text.append(text)
            self._outbox.put(text)

    def _finish(self, finish: Finish) -> None:
        if finish is not Finish.STOP:
            if self._say(self._words.finish()):
                finish = Finish.STOP
            self._send(self._stop.finish())
        plan, progress = self._plan(), self.progress
        recall = self._recall
        self._leave(Phase.DONE)
        self._outbox.end(
            AnswerRecord(
                text="".join(progress.text),
                finish=finish,
                plan=plan,
                prompt_tokens=len(self.asked.prompt_ids),
                token_ids=tuple(progress.token_ids),
                queue_ms=(progress.started_s - self.asked.arrived_s) * 1000,
                prefill_ms=(progress.prefilled_s - progress.started_s) * 1000,
                evicted=self.asked.evicted,
                recall=recall.report if recall is not None else None,
            )
        )

    def _plan(self) -> ViewPlan:
        assert self._lease is not None, "not begun"
        return self._lease.plan

    def _leave(self, phase: Phase) -> None:
        if self._run is not None and self._lease is not None:
            self._run.release(self._lease)
        self._run = self._lease = self._tail = None
        self.progress.move(phase)
