"""Pure. The line of tokens that a question stands in: prompt, then generated text; and what changes it.

A change keeps the tokens before it as they are and has those behind it read again at their new places, so
that keys and values are those of a text that never had the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reasoner_svc.view.compose import Position


@dataclass(frozen=True, slots=True)
class Reread:
    """What a change asks of the device."""

    keep: int
    """Tokens of the line that stay as they are."""
    ids: tuple[int, ...]
    """What is read behind them; never empty, so that a next token can be chosen."""
    dropped: int
    """Tokens that were in the line and are not any more."""


@dataclass(slots=True)
class Line:
    """Owned by one question."""

    prompt_ids: tuple[int, ...]
    question_base: Position
    """Of the first token of the prompt."""
    answer_start: int
    """Position, on all axes, of the first generated token behind the prompt that there was at first."""
    text_ids: list[int] = field(default_factory=list)
    """Generated and in view, the newest included, which may not be read yet."""
    apart: bool = False
    """What is generated is counted apart from prompt and video (two counters): it begins at `answer_start`,
    whatever the prompt."""
    _least_start: int = field(init=False)
    """No generated token stands before this: the video may reach farther than its text (native layout)."""

    def __post_init__(self) -> None:
        follows = self.question_base[0] + len(self.prompt_ids)
        self._least_start = self.answer_start if self.answer_start > follows else 0

    def place(self, index: int) -> Position:
        """Where a token of the line stands."""
        behind = index - len(self.prompt_ids)
        if behind < 0:
            t, h, w = self.question_base
            return (t + index, h + index, w + index)
        at = self._text_start() + behind
        return (at, at, at)

    @property
    def newest(self) -> int:
        """Index of the newest token."""
        return len(self.prompt_ids) + len(self.text_ids) - 1

    def drop(self, first: int, end: int) -> Reread:
        """Generated tokens ``[first, end)`` leave."""
        assert 0 <= first < end <= len(self.text_ids), (first, end, len(self.text_ids))
        del self.text_ids[first:end]
        return self._reread(len(self.prompt_ids) + first, end - first)

    def restart(self, prompt_ids: tuple[int, ...]) -> Reread:
        """All of the generated text leaves, and the prompt is another one."""
        pairs = zip(self.prompt_ids, prompt_ids, strict=False)
        same = next((at for at, (old, new) in enumerate(pairs) if old != new), None)
        if same is None:
            same = min(len(self.prompt_ids), len(prompt_ids))
        dropped = len(self.text_ids)
        self.prompt_ids = prompt_ids
        self.text_ids.clear()
        return self._reread(same, dropped)

    def _reread(self, keep: int, dropped: int) -> Reread:
        ids = (*self.prompt_ids, *self.text_ids)
        keep = min(keep, len(ids) - 1)
        return Reread(keep, ids[keep:], dropped)

    def _text_start(self) -> int:
        if self.apart:
            return self.answer_start
        return max(self.question_base[0] + len(self.prompt_ids), self._least_start)
