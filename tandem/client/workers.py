"""Pure: parallel workers on one question: what a client asks for and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tandem.client.types import Sampling


class WorkerLayout(StrEnum):
    """How parallel workers see each other's text; `docs/workers.md` draws them."""

    CONTIGUOUS = "contiguous"
    """Token by token: the others' text, then one's own."""
    INTERLEAVED = "interleaved"
    """Step by step: a step is private until it is finished."""
    COMBINED = "combined"
    """Both: finished steps in a common history, unfinished ones token by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Several workers that think about a question, in parallel, before one of them answers it."""

    count: int
    layout: WorkerLayout = WorkerLayout.COMBINED
    max_tokens: int = 0
    """Most tokens of each worker; 0: the server's default."""
    sampling: tuple[Sampling, ...] = ()
    """One a worker, or one for all (seeds count up from it), or none: the question's own, in the same way.
    Only temperature, top_p and seed."""
    self_check_tokens: int | None = None
    """Tokens of a worker between two self-checks; None: the server's default; 0: none."""
    step_tokens: int | None = None
    """Where a step ends at the latest; None: the server's default; 0: no bound."""
    wait_for_all: bool = False
    """The answer comes when all ended their turns, not when the first did."""
    template: str = ""
    """Name of the prompts; empty: the server's default."""


class WorkerFinish(StrEnum):
    """Why a worker stopped."""

    END = "end"
    """It ended its turn."""
    LENGTH = "length"
    """Its tokens were used up."""
    OTHERS = "others"
    """Another worker ended its turn first, and that was enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUsage:
    """What became of one worker."""

    number: int
    name: str
    tokens: int
    """Generated."""
    steps: int
    self_checks: int
    finish: WorkerFinish
