"""Services that are nobody's children: their names, and the rows of `bench/faults` that are done to them.

What must hold in each row is said at the top of `bench/faults/apart.toml`.
"""

from __future__ import annotations

from bench.faults.table import Scenario, apart

ENCODER, REASONER, ORCHESTRATOR = "encoder-0", "reasoner-0", "orchestrator"
SCENARIOS = apart()
OPEN_ENDS = ("data_lost", "unavailable")
"""Codes that a question which was open may end with."""
RESUME_S = 10.0
"""Frames are retrievable again within this; what the steps wait is not counted, nor the start of what was
killed."""


def hit(scenario: Scenario) -> tuple[str, ...]:
    """Whom its steps hit."""
    return tuple(
        dict.fromkeys(step.options["service"] for step in scenario.steps if "service" in step.options)
    )


def waits_s(scenario: Scenario) -> float:
    """How long what was hit cannot work, whatever anybody does."""
    return sum(float(step.options["seconds"]) for step in scenario.steps if step.do == "wait")
