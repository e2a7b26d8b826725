"""Tensor. One worker of a question: its line, its sampler, and what it feeds next. Knows no views."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.workers.rules import Line, Turn, after_token, ends_step, stopped
from reasoner_svc.workers.wish import WorkerRecord, WorkersWish
from tandem.vlm.families.base import PromptLayout

LOOK_BACK = 24
"""Tokens in which a blank line and the sentence end before it are looked for."""


class Worker:
    """One line of tokens."""

    def __init__(
        self, number: int, wish: WorkersWish, prompt: PromptLayout, say: Callable[[int, str], None]
    ) -> None:
        """`say(number, text)` takes its text as it becomes certain."""
        self.number = number
        self.line = Line()
        self.last: list[int] = []
        """The token that was chosen and is not fed yet."""
        self.opening: list[int] = self._opening_of(number, 1, wish, prompt, checks=False)
        """What opens its next step and is not fed yet."""
        self._checks_next = False
        self._checks = 0
        self._wish = wish
        self._prompt = prompt
        self._say = say
        self._sampler = Sampler(wish.sampling[number])
        self._words = prompt.text_stream()
        self._step_ids: list[int] = []
        """The newest tokens of its step."""
        self._made: list[int] = []

    @property
    def works(self) -> bool:
        """True until it is done."""
        return self.line.finish is None

    @property
    def record(self) -> WorkerRecord:
        """What became of it."""
        assert self.line.finish is not None, "it works"
        return WorkerRecord(
            name=self._wish.template.name(self.number),
            token_ids=tuple(self._made),
            steps=self.line.step,
            checks=self._checks,
            finish=self.line.finish,
        )

    def choose(self, logits: Tensor) -> Turn:
        """Choose a token from logits [vocabulary] and say what follows from it."""
        token = self._sampler.choose(logits)
        ends_turn = token in self._prompt.eos_ids
        turn = after_token(
            self.line,
            self._wish.rules,
            ends_turn=ends_turn,
            ends_step=not ends_turn and self._ends_step(token),
        )
        self.line = turn.line
        if turn.keeps:
            self._made.append(token)
            self._step_ids.append(token)
            self.last = [token]
            self._speak(token)
        if turn.closes:
            self._step_ids.clear()
        if turn.opens:
            self._checks_next = turn.checks
            self.opening = self._opening_of(
                self.number, self.line.step, self._wish, self._prompt, checks=turn.checks
            )
        if not self.works:
            self._finish()
        return turn

    def stop(self) -> None:
        """The work is over; what it wrote stays, what would open another step does not."""
        if self.works:
            self._finish()
        self.line = stopped(self.line)
        self.opening = []

    def fed(self) -> None:
        """What it had to feed went through the model."""
        for token in self.opening:
            self._speak(token)
        if self.opening:
            self._checks += self._checks_next
            self._checks_next = False
        self.last, self.opening = [], []

    def _ends_step(self, token: int) -> bool:
        alone = self._prompt.decode([token])
        if "\n" not in alone:
            return False
        before = self._prompt.decode(self._step_ids[-LOOK_BACK:])
        text = self._prompt.decode([*self._step_ids[-LOOK_BACK:], token])
        return ends_step(before, text[len(before) :] if text.startswith(before) else alone)

    def _speak(self, token: int) -> None:
        if text := self._words.push(token):
            self._say(self.number, text)

    def _finish(self) -> None:
        if text := self._words.finish():
            self._say(self.number, text)

    @staticmethod
    def _opening_of(
        number: int, step: int, wish: WorkersWish, prompt: PromptLayout, *, checks: bool
    ) -> list[int]:
        text = wish.template.opening(number, step, wish.count, checks=checks)
        return prompt.encode_text(text) if text else []
