"""Tensor. A question whose answer begins with thinking, under control. Owned by the engine's thread.

The output up to the close marker goes out as thoughts, the rest as the answer. What a policy puts in the
worker's mouth (the closing words and the marker) takes the place of sampled tokens, one after the other. When
a policy changes the text in view, what stands behind the change is read again before a token is chosen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from reasoner_svc.decode.answering import Answering
from reasoner_svc.decode.outbox import Outbox
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, Phase
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.decode.schedule import Waiting
from reasoner_svc.thinking.base import Act, Moment, Region, Verdict
from reasoner_svc.thinking.chain import make_chain
from reasoner_svc.thinking.difficulty import PLANS
from reasoner_svc.thinking.line import Line, Reread
from reasoner_svc.thinking.own_text import OwnText, in_order
from reasoner_svc.thinking.said import Said
from reasoner_svc.thinking.second import SecondQuestion, says_yes
from reasoner_svc.thinking.wish import Adaptive, ThinkingRecord
from tandem.core.clock import Clock
from tandem.core.watching import TextPositions
from tandem.vlm.model import ForwardResult, Step, VisionLanguageModel

BLANK_TOKENS = 32
"""What may stand between thinking and a summary, beside the summary's opening; more of it is the answer."""


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
        self._said = Said(self._wish, model.prompt)
        self._chain = make_chain(self._wish.rules)
        self._forced: deque[int] = deque()
        self._tokens = dict.fromkeys(Region, 0)
        self._closed_by = ""
        self._close_next = ""
        """Why another round would be closed at once."""
        self._own: OwnText | None = None
        self._line: Line | None = None
        self._reading: tuple[int, ...] = ()
        """What is left to read again, behind a change of the text."""
        self._dropped = 0
        self._undecided = 0
        """Tokens in a row that may stand before a summary or begin the answer."""
        self._second: SecondQuestion | None = None
        """Asked beside it, before its next token."""
        self._asked = self._asked_tokens = 0
        self._plan_name = ""
        if self._wish.rules.budget_tokens == 0:
            self._close("the thinking budget is 0 tokens")

    @property
    def waiting(self) -> Waiting:
        """See `HeldQuestion`."""
        left = self._second.left if self._second else len(self._reading)
        return Waiting(self.number, self.progress.phase, left) if left else super().waiting

    @property
    def tail_bytes(self) -> int:
        """See `HeldQuestion`."""
        return sum(part.nbytes for part in (self._own, self._second) if part is not None)

    def prepare(self, tokens: int) -> list[Step]:
        """See `HeldQuestion`."""
        if self.progress.phase is not Phase.DECODING:
            return super().prepare(tokens)
        assert self._line is not None, "not begun"
        if self._second is not None:
            return [self._second.step(self._parts(tokens)[0], tokens)]
        newest = self._line.newest
        if not self._reading:
            return [self._step((self._line.text_ids[-1],), self._places(newest, 1))]
        ids = self._reading[:tokens]
        self._stepping = len(ids)
        return [self._step(ids, self._places(newest + 1 - len(self._reading), len(ids)))]

    def advance(self, results: Sequence[ForwardResult]) -> list[Tensor]:
        """See `HeldQuestion`."""
        if self.progress.phase is not Phase.DECODING:
            rows = super().advance(results)
            if rows and self._wish.adaptive is not None:
                self._adapt(self._wish.adaptive, rows[0])
            return rows
        assert self._own is not None, "not begun"
        assert self._line is not None, "not begun"
        if self._second is not None:
            return [] if self._second.left else [results[-1].hidden[-1]]
        if self._reading:
            self._reading = self._reading[self._stepping :]
        else:
            self._dropped += self._own.wrote(self._places(self._line.newest, 1))
        return [] if self._reading else [results[-1].hidden[-1]]

    def choose(self, logits: Tensor) -> None:
        """See `HeldQuestion`."""
        if self._second is not None:
            assert self._wish.replies is not None, "nobody verifies"
            self._second = None
            self._obey(self._chain.reply(says_yes(logits[0], *self._wish.replies)))
            return
        token = self._forced.popleft() if self._forced else self._sampler.choose(logits[0])
        self._chosen(token)

    def _adapt(self, adaptive: Adaptive, state: Tensor) -> None:
        """The prompt is read: the probe says how much is thought about it."""
        difficulty, share = adaptive.probe.judge(state)
        self._plan_name = f"{difficulty.value} ({share:.2f})"
        plan, rules, sampling = PLANS[difficulty], self._wish.rules, self.asked.sampling
        if sampling.temperature > 0:
            self._sampler = Sampler(replace(sampling, temperature=plan.temperature))
        if rules.budget_tokens:
            budget = max(1, round(rules.budget_tokens * plan.share))
            self._chain = make_chain(replace(rules, budget_tokens=budget))
            self._forced.extend(adaptive.words_ids[difficulty][:budget])

    def _open(self) -> None:
        prompt_ids, plan = self.asked.prompt_ids, self._plan
        self._own = OwnText(self._model, self._wish, len(prompt_ids))
        apart = plan.positions is TextPositions.TWO_COUNTERS
        self._line = Line(prompt_ids, plan.question_base, plan.answer_start, apart=apart)

    def _free(self) -> None:
        self._own = self._line = self._second = None

    def _places(self, first: int, count: int) -> Tensor:
        """Positions int64 [3, count] of tokens of the line."""
        assert self._line is not None, "not begun"
        return torch.tensor([self._line.place(index) for index in range(first, first + count)]).T

    def _step(
        self, ids: tuple[int, ...], positions: Tensor, hook: Callable[[int, Tensor], None] | None = None
    ) -> Step:
        assert self._own is not None, "not begun"
        stream = self._parts(len(ids))
        reads = self.progress.phase is not Phase.DECODING or self._reading
        if reads:
            view = self._own.reading(stream, hook)
        else:
            assert self._line is not None, "not begun"
            view = self._own.writing(in_order(stream), len(self._line.prompt_ids))
        return Step(embeds=self._model.embed(ids), positions=positions, view=view)

    def _take(self, token: int) -> None:
        assert self._line is not None, "not begun"
        if token in self._model.prompt.eos_ids:
            if self._said.region is Region.SUMMARY:
                if not self._said.is_last:
                    self._roll()
                    return
                self._end_summary()
                token = self._forced.popleft()
            elif self._said.owes_answer and not self._closed_by:
                # It was read nowhere: the closing words follow on what was said before.
                self._close("the model ended its turn while it thought")
                token = self._forced.popleft()
            else:
                self._finish(Finish.END)
                return
        region, undecided = self._said.region, self._said.undecided
        self.progress.token_ids.append(token)
        self._line.text_ids.append(token)
        piece = self._said.push(token)
        self._undecided = self._undecided + 1 if undecided and not self._forced else 0
        if undecided and (self._said.region is Region.ANSWER or self._is_no_summary):
            region = Region.ANSWER  # it says that what follows the marker is no summary, or says nothing
        self._tokens[region] += 1
        self._think(piece.thinking)
        if piece.answer and self._speech.say(piece.answer):
            self._finish(Finish.STOP)
            return
        moment = Moment(token, region, self._tokens[region], piece.thinking, piece.raw)
        self._obey(self._chain.on_token(moment))

    @property
    def _is_no_summary(self) -> bool:
        """What does not come to a summary for so long is counted to the answer, which has an end."""
        wish = self._wish.rollover
        return wish is not None and self._undecided > BLANK_TOKENS + len(wish.opens.encode())

    def _obey(self, verdict: Verdict) -> None:
        if verdict.act is Act.STOP:
            self._closed_by = self._closed_by or verdict.reason
            self._finish(Finish.LOOP)
        elif self._tokens[Region.ANSWER] >= self.asked.max_tokens:
            self._finish(Finish.LENGTH)
        elif self._said.complete:
            self._roll()
        elif verdict.act is Act.CLOSE:
            # What the model closed itself, a moment ago, is not closed again; another round would be.
            if self._forced or self._said.owes_answer:
                self._close(verdict.reason)
            else:
                self._close_next = verdict.reason
        elif verdict.act is Act.SUMMARISE:
            assert self._wish.rollover is not None, verdict
            if self._said.owes_answer:
                self._forced.extend(self._wish.rollover.asking_ids)
        elif verdict.act is Act.ROLL:
            self._end_summary()
        elif verdict.act is Act.ASK and self._said.owes_answer:
            self._second = SecondQuestion(self._model, verdict.text)
            self._asked += 1
            self._asked_tokens += len(self._second.ids)
        elif verdict.act is Act.DROP:
            assert self._line is not None, "not begun"
            self._revise(self._line.drop(*verdict.span))

    def _close(self, reason: str) -> None:
        self._closed_by = reason
        # While a summary is asked for, it comes first.
        if not self._forced:
            self._forced.extend(self._wish.closing_ids)

    def _end_summary(self) -> None:
        """There is enough of it. In the last round its end is said for the model, and the answer follows."""
        assert self._wish.rollover is not None, "a summary of nobody"
        if not self._said.is_last:
            self._roll()
        elif not self._forced:
            self._forced.extend(self._wish.rollover.ending_ids)

    def _roll(self) -> None:
        """The summary takes the place of the thinking, in the prompt."""
        assert self._line is not None, "not begun"
        ids = self.asked.prompt_ids
        wish = self._wish.rollover
        assert wish is not None, "a summary of nobody"
        self._think(self._said.cut())
        history = (*wish.before_ids, *self._said.summary_ids(), *wish.after_ids)
        self._revise(self._line.restart((*ids[: wish.question_end], *history, *ids[wish.question_end :])))
        self._said.next_round()
        self._chain.rolled()
        self._forced.clear()
        if reason := self._closed_by or self._close_next:
            self._close(reason)

    def _revise(self, reread: Reread) -> None:
        assert self._own is not None, "not begun"
        self._own.cut(reread.keep)
        self._reading = reread.ids
        self._dropped += reread.dropped

    def _think(self, text: str) -> None:
        if text:
            self._outbox.think(0, text, self._plan.watermark_us)

    def _finish(self, finish: Finish) -> None:
        if finish is not Finish.STOP:
            rest = self._said.finish()
            self._think(rest.thinking)
            if self._speech.say(rest.answer) or self._speech.finish():
                finish = Finish.STOP
        plan, recall = self._plan, self._recall
        self._leave(Phase.DONE)
        thinking = ThinkingRecord(
            tokens=self._tokens[Region.THINKING] + self._tokens[Region.SUMMARY],
            closed_by=self._closed_by,
            dropped=self._dropped,
            rounds=self._said.rounds,
            asked=self._asked,
            asked_tokens=self._asked_tokens,
            plan=self._plan_name,
        )
        record = AnswerRecord.of(
            self.asked, self.progress, plan, recall, text=self._speech.text, finish=finish, thinking=thinking
        )
        self._outbox.end(record)
