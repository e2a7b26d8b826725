"""The disk store is stopped, killed, refused, damaged at random, and taken up again: never a wrong answer.

`TANDEM_DISK_CASES` sets how many plain cases are run; `tandem bench store` runs a thousand.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench._disk_cases import KINDS, Counts, run_case, run_cases

CASES = int(os.environ.get("TANDEM_DISK_CASES", "60"))


def test_random_cases_give_no_wrong_answer() -> None:
    counts = run_cases(CASES, seed=1)
    assert not counts.failures, counts.failures[0]
    assert (counts.cases, counts.wrong, counts.lost_durable) == (CASES, 0, 0)
    assert counts.readable > CASES, "the cases test nothing"
    print(f"{counts.cases} cases, {counts.readable} read, {counts.missing} missing, {counts.wrong} wrong")


@pytest.mark.parametrize("kind", sorted(set(KINDS)))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_kind_of_end(kind: str, seed: int) -> None:
    counts = Counts()
    run_case(seed, counts, kind)
    assert not counts.failures, counts.failures[0]
