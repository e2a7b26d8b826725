"""What a unit costs of processors that others use too, and how that is read."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from encoder_svc.cost import CostMeter
from encoder_svc.processors import FULL, MAX_OTHER, ProcessorMeter, Usage
from encoder_svc.trial import try_out
from encoder_svc.usage import cpu_quota, read_usage
from tandem.core.blocks import Codec
from tandem.core.clock import monotonic_clock
from tandem.core.overload import MAX_SHARE
from tests.unit.encoder_svc.rig import model


def metered(rate: float, own: float, other: float, saving: float = 0.0) -> ProcessorMeter:
    """After ten seconds of so many units a second; `own` and `other` in processors."""
    meter = ProcessorMeter()
    for tick in range(41):
        now_s = tick * 0.25
        used = Usage(own * now_s, own / 2 * now_s, (own + other) * now_s, 2.0)
        meter.add(100.0 + now_s, round(rate * now_s), used, saving)
    return meter


def test_promises_end_where_so_much_of_the_processors_is_used() -> None:
    # 10 ms of a unit here and 5 ms of whoever else has to do with it, on two processors.
    most = 2 * FULL / 0.015
    for rate in (most / 3, most / 1.5, most):
        fits = MAX_SHARE / metered(rate, rate * 0.010, rate * 0.005).unit_seconds
        assert 0.98 < fits / most < 1.4, "never below, and nearer the more there is"
    assert fits == pytest.approx(most, rel=0.02)


def test_a_loaded_encoder_needs_less_for_a_unit() -> None:
    small, large = (metered(40.0, 0.4, 0.0, saving) for saving in (0.6, 0.0))
    assert small.unit_seconds / large.unit_seconds == pytest.approx(0.7)


def test_programs_that_have_nothing_to_do_with_it_leave_it_its_part() -> None:
    alone, beside = (metered(20.0, 0.2, other) for other in (0.0, 1.8))
    times = beside.unit_seconds / alone.unit_seconds
    assert times == pytest.approx(FULL / (FULL - MAX_OTHER))


def test_too_few_units_say_nothing_and_what_is_over_is_forgotten() -> None:
    assert ProcessorMeter().unit_seconds == 0.0
    assert metered(2.0, 0.5, 0.0).unit_seconds == 0.0
    meter = metered(40.0, 0.8, 0.8)
    for tick in range(41):
        meter.add(
            200.0 + tick * 0.25, 400 + 10 * tick, Usage(8.0 + 0.1 * tick, 4.0, 16.0 + 0.1 * tick, 2.0), 0.0
        )
    assert meter.own == pytest.approx(0.2, abs=0.01)
    assert meter.other == pytest.approx(0.0, abs=0.01)
    busy_s = meter.unit_seconds
    for tick in range(41):  # nothing runs any more
        meter.add(300.0 + tick, 810, Usage(12.1, 4.0, 20.1, 2.0), 0.0)
    assert meter.own < 0.001
    assert meter.unit_seconds == pytest.approx(busy_s, rel=0.2), "what a unit takes is remembered"


def test_clocks_that_disagree_or_stand_still_do_no_harm() -> None:
    meter = ProcessorMeter()
    for now_s, own_s, all_s in (
        (0.0, 0.0, 0.0),
        (0.0, 1.0, 1.0),
        (1.0, 9.0, 1.0),
        (2.0, 3.0, -5.0),
        (3.0, 4.0, 99.0),
    ):
        meter.add(now_s, int(now_s * 10), Usage(own_s, own_s, all_s, 2.0), 0.0)
        assert 0.0 <= meter.model <= meter.own <= 1.0
        assert 0.0 <= meter.other <= 1.0
        assert meter.unit_seconds >= 0.0


def test_what_this_process_uses_is_seen() -> None:
    before, until_s = read_usage(0.25), time.process_time() + 0.3
    while time.process_time() < until_s:
        pass
    after = read_usage(0.5)
    assert after.own_s - before.own_s >= 0.3
    assert after.all_s - before.all_s >= 0.25, "the kernel counts these in hundredths"
    assert after.model_s - before.model_s == 0.25
    assert 0 < after.count <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "count"),
    [("max 100000", None), ("150000 100000", 1.5), ("", None), ("x y", None), ("1 0", None), ("5", None)],
)
def test_a_containers_quota_is_read(text: str, count: float | None) -> None:
    assert cpu_quota(text) == count


def test_in_a_container_with_a_quota_all_of_its_processes_count(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "cpu.stat").write_text("usage_usec 7250000\nuser_usec 7000000\nsystem_usec 250000\n")
    usage = read_usage(0.0, tmp_path)
    assert (usage.all_s, usage.count) == (7.25, 0.5)
    (tmp_path / "cpu.stat").write_text("nonsense")
    usage = read_usage(0.0, tmp_path)
    assert usage.all_s == usage.own_s, "what is not told is not made up"
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert read_usage(0.0, tmp_path).count >= 1


def test_a_trial_tells_what_a_unit_costs_before_the_first_stream() -> None:
    cost = CostMeter()
    try_out(model(), None, Codec.RAW, 8, cost, monotonic_clock)
    assert cost.is_known
    tokens = model().prompt.geometry(model().grid(240, 320)).tokens
    assert cost.unit_tokens == pytest.approx(tokens)
    assert 0 < cost.unit_seconds(8) <= cost.unit_seconds(1)


def test_a_batch_that_would_take_too_long_is_not_tried() -> None:
    cost, times = CostMeter(), iter(range(0, 1000, 5))
    try_out(model(), None, Codec.RAW, 64, cost, lambda: float(next(times)))
    assert cost.batches == 4, "those of one unit; each takes five seconds"
    assert cost.is_known


def test_all_batches_together_are_not_tried_for_long() -> None:
    cost, spans = CostMeter(), [(0.25 * k, 0.25 * k + 0.25) for k in range(2)]
    spans += [(0.5, 2.5), (2.5, 2.75), (2.75, 3.0)]
    times = iter([time for span in spans for time in span])
    try_out(model(), None, Codec.RAW, 8, cost, lambda: next(times))
    assert cost.batches == 5, "the second of eight would end 4.25 s after the first batches"
