"""Pure. What each worker sees and where it stands, from integers alone (arXiv 2504.06261, section 3).

A listing is an order of segments; each stands where the one before it ends, the first at `start`, right
behind the prompt. Nothing else distinguishes the layouts, and nothing is copied per reader::

    contiguous    prompt | work of the others | own header | own work
    interleaved   prompt | history of finished steps       | own step
    combined      prompt | history | others' header | steps of the others | own header | own step

In *interleaved* a step is private until it is finished. Text only: a segment spans as many positions as it
has tokens, on all axes alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum


class Layout(StrEnum):
    """How workers see each other."""

    CONTIGUOUS = "contiguous"
    """Token by token; each worker's text is one run."""
    INTERLEAVED = "interleaved"
    """Step by step; finished steps stand in the order in which they were finished."""
    COMBINED = "combined"
    """Both: a history of finished steps, and the others' unfinished ones token by token."""

    @property
    def has_history(self) -> bool:
        """True when finished steps move to a common history."""
        return self is not Layout.CONTIGUOUS


class Kind(Enum):
    """What a segment of a listing holds."""

    HISTORY = "history"
    """Finished steps."""
    CLOSING = "closing"
    """A step whose last token is in this pass: the history's newest, not yet part of its segment."""
    OTHERS = "others"
    """The header before the others' work."""
    WORK = "work"
    """One worker's unfinished step; in *contiguous* all that it wrote."""
    OWN = "own"
    """The header before the reader's own work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of every segment once the pass at hand is through: its new tokens are counted."""

    work: Sequence[int]
    """Per worker."""
    history: int = 0
    closing: Sequence[tuple[int, int]] = ()
    """(worker, tokens) of the steps that close in this pass, in the order in which they join the history."""
    others: int = 0
    own: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """One segment in one reader's frame."""

    kind: Kind
    worker: int
    """Whose it is; -1 for what is nobody's."""
    base: int
    """Position of its first token, on all axes."""
    tokens: int

    @property
    def end(self) -> int:
        """Position of what follows."""
        return self.base + self.tokens


def listing(
    layout: Layout,
    reader: int,
    lengths: Lengths,
    start: int,
    *,
    closes: bool = False,
    answers: bool = False,
) -> tuple[Placed, ...]:
    """What a worker sees behind the prompt, in order; its own text is last. Empty segments are left out.

    `closes`: the reader's new token is the last of a step that closes in this pass; what it writes after it
    is not seen. `answers`: everybody's work is over; nothing of it is announced by a header any more.
    """
    rows: list[tuple[Kind, int, int]] = []
    if layout.has_history:
        rows.append((Kind.HISTORY, -1, lengths.history))
        rows += [(Kind.CLOSING, w, n) for w, n in lengths.closing if not (closes and w == reader)]
    others = [(Kind.WORK, w, n) for w, n in enumerate(lengths.work) if w != reader]
    if layout is Layout.COMBINED and not answers and others:
        rows += [(Kind.OTHERS, -1, lengths.others), *others, (Kind.OWN, -1, lengths.own)]
    if layout is Layout.CONTIGUOUS and others:
        rows += [*others, (Kind.OWN, -1, lengths.own)]
    if closes:
        rows.append((Kind.CLOSING, reader, dict(lengths.closing)[reader]))
    else:
        rows.append((Kind.WORK, reader, lengths.work[reader]))
    placed: list[Placed] = []
    at = start
    for row in [row for row in rows[:-1] if row[2]] + rows[-1:]:
        placed.append(Placed(row[0], row[1], at, row[2]))
        at = placed[-1].end
    return tuple(placed)
