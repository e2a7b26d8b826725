"""Tensor. Several workers on one question, and then one that states the answer (Hogwild!, arXiv 2504.06261).

::

    READING ──▶ WORKING ──▶ ANSWERING
    prompt,     a pass: one new token of every      one line behind
    headers     worker, each seen by all in it      all that was written

All workers step in every pass of the question, so that what they write follows from the question alone. Owned
by the engine's thread. V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from torch import Tensor

from reasoner_svc.decode.held import HeldQuestion
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, Phase
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.decode.speech import Speech
from reasoner_svc.workers.layouts import Kind, Layout
from reasoner_svc.workers.rules import answering_worker, is_over
from reasoner_svc.workers.worker import Worker
from reasoner_svc.workers.workspace import Feed, Workspace
from tandem.core.clock import Clock
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel
from tandem.vlm.view import Part, View


class Stage(Enum):
    """What the question is at."""

    READING = "reading"
    WORKING = "working"
    ANSWERING = "answering"


class WorkerGroup(HeldQuestion):
    """One question of several workers on its way through the model."""

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
        assert asked.workers is not None, "a question without workers"
        self._wish = wish = asked.workers
        self.stage = Stage.READING
        self._workers = [Worker(w, wish, model.prompt, self._say) for w in range(wish.count)]
        self._speech = Speech(model.prompt, asked.stops, outbox)
        self._sampler = Sampler(asked.sampling)
        self._answerer = 0
        self._to_read: list[tuple[Kind, tuple[int, ...]]] = []
        """What is left of the headers."""
        if wish.layout is Layout.COMBINED and wish.prompts.others_ids:
            self._to_read.append((Kind.OTHERS, wish.prompts.others_ids))
        if wish.layout is not Layout.INTERLEAVED and wish.prompts.own_ids:
            self._to_read.append((Kind.OWN, wish.prompts.own_ids))
        self._opening = wish.prompts.answer_ids
        """What is left of the answer's opening."""
        self._stepping = 0
        """Tokens that are read in the pass that was prepared."""
        self._choosing: list[Worker] = []
        """Who chooses a token of this pass, in the order of the logits' rows."""
        self._space: Workspace | None = None

    @property
    def waiting(self) -> Waiting:
        """See `HeldQuestion`."""
        phase = self.progress.phase
        if self.stage is Stage.ANSWERING:
            return Waiting(self.number, phase, len(self._opening))
        left = (
            len(self.asked.prompt_ids) - self.progress.prefilled + sum(len(ids) for _, ids in self._to_read)
        )
        tokens = sum(len(feed.ids) for feed in self._feeds())
        whole = self.progress.prefilled < len(self.asked.prompt_ids) and self._reads_whole
        return Waiting(self.number, phase, left, tokens, self._wish.count, whole=whole)

    @property
    def tail_bytes(self) -> int:
        """See `HeldQuestion`."""
        return self._space.nbytes if self._space else 0

    def prepare(self, tokens: int) -> list[Step]:
        """See `HeldQuestion`."""
        assert self._space is not None, "not begun"
        start = self._plan.answer_start
        if self.stage is Stage.WORKING:
            return self._space.steps(self._feeds(), start, self._parts)
        if self.stage is Stage.ANSWERING:
            ids = self._opening[:tokens] if tokens else self.progress.token_ids[-1:]
            self._stepping = tokens
            return self._space.steps([Feed(self._answerer, ids)], start, self._parts, answers=True)
        if self.progress.prefilled < len(self.asked.prompt_ids):
            ids, positions, hook = self._next_prompt(tokens)
            self._stepping = len(ids)
            view = View(parts=self._parts(len(ids)), tail=Part(segment=self._space.prompt), before_layer=hook)
            return [Step(embeds=self._model.embed(ids), positions=positions, view=view)]
        kind, ids = self._to_read[0]
        self._stepping = min(tokens, len(ids))
        part = ids[: self._stepping]
        return [self._space.read_header(kind, part, start, self._parts(len(part)))]

    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """See `HeldQuestion`."""
        if self.stage is Stage.WORKING:
            return self._worked(results)
        if self.stage is Stage.ANSWERING:
            self._opening = self._opening[self._stepping :]
            return [] if self._opening else [results[-1].hidden[-1]]
        if self.progress.prefilled < len(self.asked.prompt_ids):
            self._prompt_read(self._stepping)
        else:
            kind, ids = self._to_read.pop(0)
            if len(ids) > self._stepping:
                self._to_read.insert(0, (kind, ids[self._stepping :]))
        if self._to_read or self.progress.prefilled < len(self.asked.prompt_ids):
            return []
        self.progress.prefilled_s = self._clock()
        self.progress.move(Phase.DECODING)
        self.stage = Stage.WORKING
        # Who opens its step with nothing goes on from what was read.
        self._choosing = [worker for worker in self._workers if not worker.opening]
        return [results[-1].hidden[-1]] * len(self._choosing)

    def choose(self, logits: Tensor) -> None:
        """See `HeldQuestion`."""
        if self.stage is Stage.ANSWERING:
            self._answer(self._sampler.choose(logits[0]))
            return
        assert self._space is not None, "not begun"
        for worker, row in zip(self._choosing, logits, strict=True):
            if worker.choose(row).closes:
                self._space.close(worker.number, more=bool(worker.last))
        if is_over((worker.line for worker in self._workers), self._wish.over):
            for worker in self._workers:
                worker.stop()
        if not self._feeds():
            self._begin_answer()

    def _open(self) -> None:
        self._space = Workspace(self._model, self._wish.layout, self._wish.count, len(self.asked.prompt_ids))

    def _free(self) -> None:
        self._space = None

    def _say(self, worker: int, text: str) -> None:
        self._outbox.think(worker, text, self._plan.watermark_us)

    def _feeds(self) -> list[Feed]:
        """What goes through the model in the next pass."""
        feeds = []
        for worker in self._workers:
            has_closed = self._space is not None and self._space.is_closing(worker.number)
            if has_closed and worker.last:
                feeds.append(Feed(worker.number, worker.last, closes=True))
            ids = worker.opening if has_closed else worker.last + worker.opening
            if ids:
                feeds.append(Feed(worker.number, ids))
        return feeds

    def _worked(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """A pass of the work is through; each worker goes on from the last of its steps."""
        assert self._space is not None, "not begun"
        newest = {feed.worker: result.hidden[-1] for feed, result in zip(self._feeds(), results, strict=True)}
        self._space.settle()
        for worker in self._workers:
            worker.fed()
        self._choosing = [w for w in self._workers if w.works and w.number in newest]
        if not self._choosing:
            self._begin_answer()
        return [newest[worker.number] for worker in self._choosing]

    def _begin_answer(self) -> None:
        assert self._space is not None, "not begun"
        for worker in self._workers:
            self._space.close(worker.number)
        self._space.settle()
        self._answerer = answering_worker(worker.line for worker in self._workers)
        self.stage = Stage.ANSWERING

    def _answer(self, token: int) -> None:
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
        workers = tuple(worker.record for worker in self._workers)
        self._leave(Phase.DONE)
        self._outbox.end(
            AnswerRecord.of(
                self.asked,
                self.progress,
                plan,
                recall,
                text=self._speech.text,
                finish=finish,
                workers=workers,
            )
        )
