"""Pure. What a question says of its workers, validated and in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.rules import Over, Rules, WorkerFinish
from reasoner_svc.workers.templates import Prompts, Template


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersWish:
    """Several workers on one question; `reasoner_svc.workers.asking` checks it."""

    layout: Layout
    sampling: tuple[SamplingParams, ...]
    """Per worker; their number is the number of workers."""
    rules: Rules
    over: Over
    template: Template
    prompts: Prompts

    @property
    def count(self) -> int:
        """How many workers."""
        return len(self.sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """What became of one worker."""

    name: str
    token_ids: tuple[int, ...]
    """Generated, without the token that ended its turn and without what was inserted."""
    steps: int
    """Begun."""
    checks: int
    """Self-checks that were inserted."""
    finish: WorkerFinish
