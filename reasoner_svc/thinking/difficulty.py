"""Pure. Plans of thinking by how hard a question looks (DiffAdapt, arXiv 2510.19669).

A probe (`probe.py`) looks at the hidden state behind the prompt, once, and picks one of three plans. Models
think too much about what is easy, and in vain about what they cannot do; so both get less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Difficulty(Enum):
    """What the probe tells apart; the order of values is that of its outputs."""

    EASY = "easy"
    NORMAL = "normal"
    HARD = "hard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingPlan:
    """How a question of one difficulty is thought about; numbers are the paper's."""

    words: str
    """With which the thinking begins: put in the model's mouth; may be empty."""
    temperature: float
    """Of questions that are sampled at all; what is greedy stays greedy."""
    share: float
    """Of the question's thinking budget, in (0, 1]."""


PLANS = {
    Difficulty.EASY: ThinkingPlan(
        words="This is easy: I answer directly and check it once.\n", temperature=0.5, share=0.4
    ),
    Difficulty.NORMAL: ThinkingPlan(words="", temperature=0.8, share=1.0),
    Difficulty.HARD: ThinkingPlan(
        words="This is hard and I have little room: I keep to what matters most.\n",
        temperature=0.4,
        share=0.5,
    ),
}


def label_of(accuracy: float, entropy: float, *, right: float, sure: float, wrong: float) -> Difficulty:
    """What a probe is trained to say of a question, from several answers to it (the paper has ten).

    `accuracy`: share of them that are right. `entropy`: mean entropy of their tokens, in nats. At least
    `right` of them right and at most `sure` of entropy: normal. Less than `wrong` of them right: hard.
    Else: easy. (Where the model is right but hesitates, it overthinks what is easy.)
    """
    if accuracy >= right and entropy <= sure:
        return Difficulty.NORMAL
    return Difficulty.HARD if accuracy < wrong else Difficulty.EASY
