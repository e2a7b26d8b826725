"""The short form of the fault suite: real services with the embedded model, struck while they watch."""

from __future__ import annotations

import pytest

from bench.faults.runner import run_all
from bench.faults.table import chosen

PATIENCE = 6.0
"""A machine that runs tests besides is slow; what must hold does not change with it."""


@pytest.mark.timeout(400)
async def test_the_short_form_ends_as_declared() -> None:
    said: list[str] = []
    verdicts = await run_all(chosen("", quick=True), said.append, PATIENCE)
    print("\n".join(said))
    assert [verdict.findings for verdict in verdicts] == [()] * len(verdicts)
    assert sum(verdict.wrong_answers + verdict.lost_durable for verdict in verdicts) == 0
    assert all(verdict.answers for verdict in verdicts)
