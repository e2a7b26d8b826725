"""Tensor. A question whose answer begins with thinking, under control. Owned by the engine's thread.

The output up to the close marker goes out as thoughts, the rest as the answer. What a policy puts in the
worker's mouth (the closing words and the marker) takes the place of sampled tokens, one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reasoner_svc.decode.answering import Answering
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, Phase
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.thinking.base import Act, Moment, Region, Verdict
from reasoner_svc.thinking.chain import make_chain
from reasoner_svc.thinking.own_text import OwnText
from reasoner_svc.thinking.regions import Regions
from reasoner_svc.thinking.wish import ThinkingRecord
from tandem.core.clock import Clock
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel


class ThinkingAnswering(Answering):
    """One question on its way through the model, thinking first."""

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
        assert asked.thinking is not None, "nobody thinks"
        self._wish = asked.thinking
        self._words = model.prompt.text_stream()
        self._regions = Regions(self._wish.close)
        self._chain = make_chain(self._wish.rules)
        self._forced: deque[int] = deque()
        self._region = Region.THINKING
        """Of the next token. That of the text lags: what ends in a sign waits for the next letter."""
        self._tokens = {Region.THINKING: 0, Region.ANSWER: 0}
        self._closed_by = ""
        self._own: OwnText | None = None
        self._dropped = 0
        if self._wish.rules.budget_tokens == 0:
            self._close("the thinking budget is 0 tokens")

    @property
    def tail_bytes(self) -> int:
        """See `HeldQuestion`."""
        return self._own.nbytes if self._own else 0

    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """See `HeldQuestion`."""
        if self.progress.phase is Phase.DECODING:
            assert self._own is not None, "not begun"
            self._dropped += self._own.wrote(self._position())
        return super().advance(results)

    def choose(self, logits: Tensor) -> None:
        """See `HeldQuestion`."""
        token = self._forced.popleft() if self._forced else self._sampler.choose(logits[0])
        self._chosen(token)

    def _open(self) -> None:
        self._own = OwnText(self._model, self._wish, len(self.asked.prompt_ids))

    def _free(self) -> None:
        self._own = None

    def _position(self) -> Tensor:
        """Of the newest token, int64 [3, 1]."""
        return torch.full((3, 1), self._plan.answer_start + len(self.progress.token_ids) - 1)

    def _step(
        self, ids: tuple[int, ...], positions: Tensor, hook: Callable[[int, Tensor], None] | None = None
    ) -> Step:
        assert self._own is not None, "not begun"
        stream = self._parts(len(ids))
        writes = self.progress.phase is Phase.DECODING
        view = self._own.writing(stream) if writes else self._own.reading(stream, hook)
        return Step(embeds=self._model.embed(ids), positions=positions, view=view)

    def _take(self, token: int) -> None:
        if token in self._model.prompt.eos_ids:
            if self._region is Region.THINKING and not self._closed_by:
                # It was read nowhere: the closing words follow on what was said before.
                self._close("the model ended its turn while it thought")
                token = self._forced.popleft()
            else:
                self._finish(Finish.END)
                return
        region = self._region
        self._tokens[region] += 1
        self.progress.token_ids.append(token)
        if region is Region.THINKING and self._is_closed():
            self._region = Region.ANSWER
        split = self._regions.push(self._words.push(token))
        self._think(split.thinking)
        if split.answer and self._speech.say(split.answer):
            self._finish(Finish.STOP)
            return
        self._obey(self._chain.on_token(Moment(token, region, self._tokens[region], split.thinking)))

    def _is_closed(self) -> bool:
        """Do the newest tokens spell the marker? It has at most as many tokens as UTF-8 bytes."""
        newest = self.progress.token_ids[-len(self._wish.close.encode()) :]
        return self._wish.close in self._model.prompt.decode(newest)

    def _obey(self, verdict: Verdict) -> None:
        if verdict.act is Act.STOP:
            self._closed_by = self._closed_by or verdict.reason
            self._finish(Finish.LOOP)
        elif self._tokens[Region.ANSWER] >= self.asked.max_tokens:
            self._finish(Finish.LENGTH)
        elif verdict.act is Act.CLOSE:
            self._close(verdict.reason)

    def _close(self, reason: str) -> None:
        self._closed_by = reason
        self._forced.extend(self._wish.closing_ids)

    def _think(self, text: str) -> None:
        if text:
            self._outbox.think(0, text, self._plan.watermark_us)

    def _finish(self, finish: Finish) -> None:
        if finish is not Finish.STOP:
            split = self._regions.push(self._words.finish())
            end = self._regions.finish()
            self._think(split.thinking + end.thinking)
            if self._speech.say(split.answer) or self._speech.finish():
                finish = Finish.STOP
        plan, recall = self._plan, self._recall
        self._leave(Phase.DONE)
        thinking = ThinkingRecord(
            tokens=self._tokens[Region.THINKING], closed_by=self._closed_by, dropped=self._dropped
        )
        record = AnswerRecord.of(
            self.asked, self.progress, plan, recall, text=self._speech.text, finish=finish, thinking=thinking
        )
        self._outbox.end(record)
