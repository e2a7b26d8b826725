"""Load or skip: by what the disk did lately and by the time that is left."""

from __future__ import annotations

import math

import pytest

from reasoner_svc.retrieve.cost import DiskRate, plan_load


def test_without_a_limit_everything_is_read() -> None:
    assert plan_load(7, 1 << 20, DiskRate(), math.inf).load == 7
    assert plan_load(0, 1 << 20, DiskRate(), 0.0).reason == "all in memory"


def test_what_does_not_fit_is_skipped_and_told() -> None:
    rate = DiskRate(seconds_per_byte=0.0, seconds_per_read=0.01)
    plan = plan_load(7, 4096, rate, 0.035)
    assert (plan.load, plan.skipped) == (3, 4)
    assert "4 skipped" in plan.reason
    assert plan_load(7, 4096, rate, -1.0).load == 0


def test_the_estimate_follows_what_is_measured() -> None:
    rate = DiskRate(seconds_per_byte=0.0, seconds_per_read=0.001)
    for _ in range(40):
        rate.note(10, 0, 0.1)
    assert rate.expect(1, 0) == pytest.approx(0.01, rel=0.01)
