"""Pure. What a question says of thinking, validated and in tokens; and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoner_svc.thinking.chain import ThinkingRules

if TYPE_CHECKING:
    from reasoner_svc.thinking.difficulty import Difficulty
    from reasoner_svc.thinking.heads import HeadClasses
    from reasoner_svc.thinking.probe import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """How a generated text is kept small on the device (LazyEviction, arXiv 2506.15969)."""

    capacity: int
    """Tokens that stay when a window ends; at least `window`."""
    window: int
    """Tokens from one look to the next; as many of the newest always stay. At least 1."""
    threshold: float
    """Probability from which on a token counts as attended to; in (0, 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """How thinking in rounds is written (InftyThink, arXiv 2503.06692); how long they are say the rules."""

    opens: str
    ends: str
    """Texts around a summary in the model's own text."""
    asking_ids: tuple[int, ...]
    """Closes thinking and opens a summary, for when a round's tokens are used."""
    ending_ids: tuple[int, ...]
    """`ends`, for when the last round's summary does not end by itself."""
    question_end: int
    """Token of the prompt before which the history is put: the end of the user's own words."""
    before_ids: tuple[int, ...]
    after_ids: tuple[int, ...]
    """Around the summary in the next round's prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive:
    """The probe decides how much is thought (DiffAdapt, arXiv 2510.19669)."""

    probe: Probe
    words_ids: Mapping[Difficulty, tuple[int, ...]]
    """With which the thinking begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingWish:
    """Thinking before the answer; `reasoner_svc.thinking.asking` checks it."""

    close: str
    """What ends it in the model's own text; never empty."""
    closing_ids: tuple[int, ...]
    """Closing words and `close`, for when a rule ends it."""
    rules: ThinkingRules
    eviction: Eviction | None = None
    """None: all that was generated stays in view."""
    adaptive: Adaptive | None = None
    """None: the question's own numbers count."""
    heads: HeadClasses | None = None
    """None: all heads see everything."""
    replies: tuple[int, int] | None = None
    """Tokens for yes and no of a verifier. Set together with ``rules.verifier``."""
    rollover: Rollover | None = None
    """None: there is one round. Set together with ``rules.rollover``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingRecord:
    """What became of it."""

    tokens: int
    """Of thinking, the marker and what was put in the model's mouth included."""
    closed_by: str
    """Which rule ended it, and why; empty: the model itself, or nothing did."""
    dropped: int = 0
    """Tokens of its own text that left the view again."""
    rounds: int = 1
    """Of thinking, with a summary between two."""
    asked: int = 0
    """Questions to the verifier."""
    asked_tokens: int = 0
    """Tokens of their prompts."""
    plan: str = ""
    """Which plan the probe chose, and its probability; empty: nobody asked it."""
