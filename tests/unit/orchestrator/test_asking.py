"""How long a question waits for something to answer from."""

import math

import pytest

from orchestrator.asking import _FIRST_BLOCK_S, Asked
from tandem.wire.gen.tandem.v1 import types_pb2


@pytest.mark.parametrize(
    ("budget_ms", "ready_s", "until_s"),
    [
        (0, 101.0, math.inf),
        (2000, None, math.inf),
        (2000, 102.0, 102.0 + _FIRST_BLOCK_S),
        (2000, 103.0, 103.0 + _FIRST_BLOCK_S),
        # Asked before the first frame was sent: nothing is waited for, and the budget is not used yet.
        (2000, 100.0, 102.0 + _FIRST_BLOCK_S),
    ],
)
def test_a_first_block_is_waited_for_as_long_as_the_budget_says(
    budget_ms: int, ready_s: float | None, until_s: float
) -> None:
    question = types_pb2.Question(question_id="q", text="what?", latency_budget_ms=budget_ms)
    assert Asked(question, 100.0, 0, 0, ready_s=ready_s).patience_s == until_s
