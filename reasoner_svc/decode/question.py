"""Pure. The life of one question as a table of transitions, and what was asked and found. Knows no tensors.

::

    QUEUED ──▶ PREFILL ──▶ DECODING ──▶ DONE
       │          │            │
       └──────────┴────────────┴──▶ CANCELLED (the asker left)  or  FAILED (a typed error)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.thinking.wish import ThinkingRecord, ThinkingWish
from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.workers.wish import WorkerRecord, WorkersWish
from tandem.core.ids import QuestionId, StreamId
from tandem.core.timeline import TimeRange

if TYPE_CHECKING:
    from reasoner_svc.view.recall import Recall, RecallReport


class Phase(Enum):
    """Where a question is in its life."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODING = "decoding"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """True when nothing comes after it."""
        return not _NEXT[self]


_ENDS = frozenset({Phase.CANCELLED, Phase.FAILED})
_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.PREFILL}) | _ENDS,
    Phase.PREFILL: frozenset({Phase.DECODING, Phase.DONE}) | _ENDS,
    Phase.DECODING: frozenset({Phase.DONE}) | _ENDS,
    Phase.DONE: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.FAILED: frozenset(),
}


class Finish(Enum):
    """Why an answer ended by itself."""

    END = "end"
    """The model ended it."""
    STOP = "stop"
    """A stop text was met."""
    LENGTH = "length"
    """`max_tokens` was reached."""
    LOOP = "loop"
    """It said the same again and again, and a guard stopped it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalWish:
    """What a question says of older blocks."""

    strategy: str = ""
    """Empty: the reasoner's own."""
    blocks: int = 0
    """Most of them; 0: the reasoner's limit."""
    tokens: int = 0
    """Most tokens of them; 0: no such limit."""
    mass: float = 0.0
    """Share of the softmax over all scores that is enough; 0: off."""
    chunk: int = 0
    """Neighbours that come back together; 0: the reasoner's."""
    load_s: float = 0.0
    """Longest time for reading from disk; 0: no limit."""
    text: str = ""
    """The question, for strategies that embed it."""
    span: tuple[int, int] = (0, 0)
    """Its own tokens among the prompt's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """What was asked, validated."""

    stream: StreamId
    question_id: QuestionId
    run: int
    """Which opening of the stream."""
    prompt_ids: tuple[int, ...]
    """From the last block to the start of the answer; never empty."""
    sampling: SamplingParams
    stops: tuple[str, ...]
    max_tokens: int
    as_of_us: int
    """Blocks that start at or after this are not in view; 0: all that is published."""
    arrived_s: float
    since_us: int = 0
    """What ended by then is not in view, and no note; 0: all that fits."""
    evicted: tuple[TimeRange, ...] = ()
    """Intervals of the stream that had left memory when it was asked."""
    retrieval: RetrievalWish = RetrievalWish()
    """How older blocks come into view."""
    workers: WorkersWish | None = None
    """Who thinks before the answer; None: nobody, the answer is written at once."""
    thinking: ThinkingWish | None = None
    """How the answerer itself thinks first; None: what it writes is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """The final record of an answer."""

    text: str
    finish: Finish
    plan: ViewPlan
    prompt_tokens: int
    token_ids: tuple[int, ...]
    """Without the token that ended it."""
    queue_ms: float
    prefill_ms: float
    evicted: tuple[TimeRange, ...]
    recall: RecallReport | None = None
    """What of the older video came back into view; None when nothing older was looked for."""
    workers: tuple[WorkerRecord, ...] = ()
    """What became of each worker."""
    thinking: ThinkingRecord | None = None
    """What became of the answerer's own thinking."""

    @classmethod
    def of(
        cls,
        asked: AskedQuestion,
        progress: Progress,
        plan: ViewPlan,
        recall: Recall | None,
        *,
        text: str,
        finish: Finish,
        workers: tuple[WorkerRecord, ...] = (),
        thinking: ThinkingRecord | None = None,
    ) -> AnswerRecord:
        """The record of a question that ends now."""
        return cls(
            text=text,
            finish=finish,
            plan=plan,
            prompt_tokens=len(asked.prompt_ids),
            token_ids=tuple(progress.token_ids),
            queue_ms=(progress.started_s - asked.arrived_s) * 1000,
            prefill_ms=(progress.prefilled_s - progress.started_s) * 1000,
            evicted=asked.evicted,
            recall=recall.report if recall is not None else None,
            workers=workers,
            thinking=thinking,
        )


@dataclass(slots=True, eq=False)
class Progress:
    """How far one question is. Owned by the engine's thread."""

    phase: Phase = Phase.QUEUED
    prefilled: int = 0
    """Prompt tokens that went through the model."""
    token_ids: list[int] = field(default_factory=list)
    """Of the answer."""
    started_s: float = 0.0
    prefilled_s: float = 0.0

    def move(self, phase: Phase) -> None:
        """Go on to `phase`; a transition that is not in the table is a broken promise of ours."""
        assert phase in _NEXT[self.phase], f"no way from {self.phase} to {phase}"
        self.phase = phase
