"""Pure. What a question says, token by token: which of it is thinking, which a summary, which the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoner_svc.thinking.base import Region
from reasoner_svc.thinking.regions import Regions
from reasoner_svc.thinking.rollover import Round
from reasoner_svc.thinking.wish import ThinkingWish

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_WINDOW = 16
"""Tokens without a whole character among them."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of one token."""

    thinking: str
    """To send as thoughts: markers left out, a summary's text included."""
    answer: str
    """To send as the answer."""
    raw: str = ""
    """All that the token added to the text."""


class Raw:
    """The text of tokens at once, where what is sent waits until it cannot change any more (`TextStream`).

    For rules that need to know which token said what; a half character waits here too.
    """

    def __init__(self, prompt: PromptLayout) -> None:
        self._prompt = prompt
        self._window: list[int] = []
        self._text = ""
        """Of the window, as far as it was handed out."""

    def push(self, token: int) -> str:
        """What the token adds."""
        self._window.append(token)
        text = self._prompt.decode(self._window)
        whole = not text.endswith(_REPLACEMENT) or len(self._window) > _LONGEST_WINDOW
        if not whole:
            return ""
        same = (at for at, (old, new) in enumerate(zip(self._text, text, strict=False)) if old != new)
        fresh = text[next(same, min(len(text), len(self._text))) :]
        # Decoders join a token with the one before it, so that one stays.
        self._window = self._window[-1:]
        self._text = self._prompt.decode(self._window)
        return fresh

    def finish(self) -> str:
        """What is left: a broken character."""
        return self._prompt.decode(self._window)[len(self._text) :]


class Said:
    """The output of one question."""

    def __init__(self, wish: ThinkingWish, prompt: PromptLayout) -> None:
        self._wish = wish
        self._prompt = prompt
        self._newest: list[int] = []
        self._answers = False
        """The tokens spell the marker; the text may lag: what ends in a sign waits for a letter."""
        self.rounds = 0
        self.next_round()

    def next_round(self) -> None:
        """The text begins anew."""
        self.rounds += 1
        self._words = self._prompt.text_stream()
        self._raw = Raw(self._prompt)
        self._parts: Regions | Round = Regions(self._wish.close)
        """Splits what is sent."""
        self._round: Round | None = None
        """Splits the same text at once, to know what the next token is."""
        if self._wish.rollover is not None:
            self._parts, self._round = self._new_round(), self._new_round()

    def _new_round(self) -> Round:
        wish = self._wish.rollover
        assert wish is not None, "nobody thinks in rounds"
        return Round(self._wish.close, wish.opens, wish.ends, last=self.is_last)

    @property
    def is_last(self) -> bool:
        """No other round follows this one."""
        rules = self._wish.rules.rollover
        return rules is None or self.rounds >= rules.max_rounds

    @property
    def region(self) -> Region:
        """Of the next token."""
        if self._round is not None:
            return self._round.region
        return Region.ANSWER if self._answers else Region.THINKING

    @property
    def owes_answer(self) -> bool:
        """Nothing closed the thinking."""
        return self.region is Region.THINKING and not self.undecided

    @property
    def undecided(self) -> bool:
        """Thinking was closed, and a summary or the answer may follow."""
        return self._round is not None and self._round.undecided

    @property
    def complete(self) -> bool:
        """A summary is there, and another round is due."""
        return self._round is not None and self._round.complete

    def summary_ids(self) -> tuple[int, ...]:
        """The summary as plain text in tokens, at most twice as many as were allowed for it."""
        assert self._round is not None, "a summary of nobody"
        assert self._wish.rules.rollover is not None, "rounds without rules"
        text = self._round.summary
        ids = self._prompt.encode_text(text) if text else []
        return tuple(ids[: 2 * self._wish.rules.rollover.summary_tokens])

    def push(self, token: int) -> Piece:
        """The next token."""
        raw = self._raw.push(token)
        if self._round is not None:
            self._round.push(raw)
        elif not self._answers:
            # The marker has at most as many tokens as UTF-8 bytes.
            self._newest = [*self._newest, token][-len(self._wish.close.encode()) :]
            self._answers = self._wish.close in self._prompt.decode(self._newest)
        split = self._parts.push(self._words.push(token))
        return Piece(split.thinking, split.answer, raw)

    def cut(self) -> str:
        """The round ends here, its summary complete or not; what is still to be sent of it."""
        assert self._round is not None, "a summary of nobody"
        if not self._round.complete:
            self._round.push(self._raw.finish())
            self._round.cut()
        return self._parts.push(self._words.finish()).thinking + self._parts.finish().thinking

    def finish(self) -> Piece:
        """Nothing more comes."""
        split, end = self._parts.push(self._words.finish()), self._parts.finish()
        return Piece(split.thinking + end.thinking, split.answer + end.answer)
