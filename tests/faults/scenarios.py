"""What is hit, how, and what must hold then: the table, as data.

Here services are nobody's children: they outlive the orchestrator, and somebody else starts them again. What
can be shown as well with those of `tandem up` is in `bench/faults/scenarios.toml`.

In every scenario a client feeds pictures at a steady pace through the fault, an answer is being written, and
in the end
* every frame is in view, none twice, and nothing is declared missing: no durable block was lost, what was not
  acknowledged was replayed once in effect;
* the answer's text is that of an undisturbed stream;
* a question that was open when it happened ended with exactly one record: its answer, or one of `errors`;
* the client came back by itself, by stream id and token.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class How(StrEnum):
    """What is done to a process."""

    KILL = "kill"
    """SIGKILL; it is started again at once, as a supervisor would."""
    FREEZE = "freeze"
    """SIGSTOP; it wakes after `FREEZE_S`, long after its lease."""
    CUT = "cut"
    """Its connections are reset and refused for `CUT_S`."""
    STARVE = "starve"
    """Its connections stay, and nothing comes through for `STARVE_S`."""


FREEZE_S = 6.0
CUT_S = 3.0
STARVE_S = 6.0

ENCODER, REASONER, ORCHESTRATOR = "encoder-0", "reasoner-0", "orchestrator"


@dataclass(frozen=True)
class Scenario:
    """One row."""

    hit: tuple[str, ...]
    how: tuple[How, ...]
    """Of each that is hit."""
    errors: tuple[str, ...] = ("data_lost", "unavailable")
    """Codes that a question which was open may end with."""
    resume_s: float = 10.0
    """Frames are retrievable again within this, the start of what was killed not counted."""

    @property
    def name(self) -> str:
        """Of its test."""
        return "+".join(f"{how}-{name}" for name, how in zip(self.hit, self.how, strict=True))


def _both(how: How, first: str, second: str) -> Scenario:
    return Scenario((first, second), (how, how))


PAIRS = ((ENCODER, REASONER), (ENCODER, ORCHESTRATOR), (REASONER, ORCHESTRATOR))

SCENARIOS: tuple[Scenario, ...] = (
    *(Scenario((name,), (how,)) for how in How for name in (ENCODER, REASONER, ORCHESTRATOR)),
    *(_both(how, *pair) for how in How for pair in PAIRS),
    # One dies while the other cannot be reached or does not move.
    Scenario((ENCODER, REASONER), (How.KILL, How.FREEZE)),
    Scenario((ENCODER, REASONER), (How.FREEZE, How.KILL)),
    Scenario((ENCODER, ORCHESTRATOR), (How.CUT, How.KILL)),
    Scenario((REASONER, ORCHESTRATOR), (How.CUT, How.KILL)),
    Scenario((REASONER, ORCHESTRATOR), (How.KILL, How.FREEZE)),
)
