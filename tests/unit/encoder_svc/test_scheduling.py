"""Deadlines, fair shares and rates: pure rules, and simulations of an encoder under load."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoder_svc.batch import DeadlineQueue, Run
from encoder_svc.cost import CostMeter
from encoder_svc.rates import CALM_S, LATE_S, RISE_S, RateControl, Wish
from encoder_svc.sample import Grid, Sampler, Unit
from encoder_svc.shedding import Shedding
from tandem.core.shares import Need, fill, fill_by_group

# -- the queue --


def test_the_earliest_deadline_goes_first_and_streams_keep_their_order() -> None:
    queue: DeadlineQueue[str, int] = DeadlineQueue(run_items=2, batch_items=3)
    for item in range(5):
        queue.put("fast", item, 0.0, 0.1)  # due 0.1, 0.2, 0.3 ...
    queue.put("slow", 10, 0.0, 1.0)
    assert queue.take(0.0) == [Run("fast", (0, 1)), Run("slow", (10,))]
    queue.put("new", 20, 0.0, 0.05)
    assert queue.take(0.0) == [Run("new", (20,)), Run("fast", (2, 3))]
    assert queue.late("fast", 1.0) == pytest.approx(0.5)
    assert queue.late("slow", 1.0) == queue.late("unknown", 1.0) == 0.0
    assert (len(queue), queue.streams) == (1, 3)
    queue.put("slow", 11, 0.0, 1.0)
    assert queue.take(0.0, 1) == [Run("fast", (4,))]
    queue.drop("fast")
    queue.drop("unknown")
    assert queue.take(9.0) == [Run("slow", (11,))]
    assert queue.take(9.0) == []


def test_a_burst_gets_deadlines_of_its_own_time() -> None:
    queue: DeadlineQueue[str, int] = DeadlineQueue(run_items=8, batch_items=1)
    for item in range(20):
        queue.put("burst", item, 0.0, 1.0)
    taken = []
    for step in range(20):
        if step % 2:
            queue.put("live", 100 + step, step * 0.5, 1.0)
        taken += queue.take(step * 0.5)
    # Ten units of the burst went while twice as many had arrived: none of "live" waited for them.
    assert sum(run.stream == "live" for run in taken) == 10
    assert all(queue.late("burst", 10.0) <= 0.0 for _ in taken)


def test_what_waited_for_too_long_is_taken_out() -> None:
    queue: DeadlineQueue[str, int] = DeadlineQueue(run_items=8, batch_items=8)
    queue.limit("live", 2.0)
    for item in range(4):
        queue.put("live", item, float(item), 1.0)  # due 1, 2, 3, 4
        queue.put("file", item, float(item), 1.0)
    assert queue.expire(3.0) == []
    assert queue.expire(4.5) == [("live", 0), ("live", 1)]
    assert {run.stream: run.items for run in queue.take(4.5)} == {"live": (2, 3), "file": (0, 1, 2, 3)}
    assert queue.expire(99.0) == []


class Simulated:
    """An encoder with `cost_s` a unit, in simulated seconds; arrivals are (time, stream, duration)."""

    def __init__(self, cost_s: float, weights: dict[str, float] | None = None, batch: int = 8) -> None:
        self.queue: DeadlineQueue[str, tuple[float, float]] = DeadlineQueue(run_items=4, batch_items=batch)
        for stream, weight in (weights or {}).items():
            self.queue.weigh(stream, weight)
        self._cost_s = cost_s
        self.late: dict[str, list[float]] = defaultdict(list)
        """Of every unit that was encoded: how far past arrival + duration it was done."""

    def run(self, arrivals: list[tuple[float, str, float]], until_s: float) -> None:
        now_s, arrivals = 0.0, sorted(arrivals, reverse=True)
        while now_s < until_s:
            while arrivals and arrivals[-1][0] <= now_s:
                at_s, stream, duration_s = arrivals.pop()
                self.queue.put(stream, (at_s, duration_s), at_s, duration_s)
            runs = self.queue.take(now_s)
            if not runs:
                now_s = max(now_s, arrivals[-1][0]) if arrivals else until_s
                continue
            now_s += self._cost_s * sum(len(run.items) for run in runs)
            for run in runs:
                self.late[run.stream] += [now_s - at_s - duration_s for at_s, duration_s in run.items]


def live(stream: str, fps: float, seconds: float, chance: random.Random) -> list[tuple[float, str, float]]:
    """Units of a live stream, with jitter of the network."""
    offset_s, period_s = chance.random() / fps, 1.0 / fps
    count = int((seconds - offset_s) * fps)
    return [
        (offset_s + k * period_s + chance.random() * 0.3 * period_s, stream, period_s) for k in range(count)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_lateness_is_bounded_at_nine_tenths_of_the_load_and_nobody_starves(seed: int) -> None:
    chance = random.Random(seed)
    rates = {f"s{k}": chance.choice((0.5, 1.0, 2.0, 8.0)) for k in range(40)}
    cost_s = 0.9 / sum(rates.values())
    arrivals = [each for name, fps in rates.items() for each in live(name, fps, 60.0, chance)]
    encoder = Simulated(cost_s)
    encoder.run(arrivals, 200.0)
    assert {name: len(late) for name, late in encoder.late.items()} == {
        name: sum(1 for _, stream, _ in arrivals if stream == name) for name in rates
    }
    # At most the batch that was running when it was due.
    assert max(max(late) for late in encoder.late.values()) < 8 * cost_s


def test_a_stream_that_sends_too_much_costs_only_itself() -> None:
    chance = random.Random(1)
    calm = [each for k in range(8) for each in live(f"calm{k}", 1.0, 60.0, chance)]
    # Declares, and sends, ten times what the encoder can do.
    flood = [(k / 200, "flood", 1 / 200) for k in range(60 * 200)]
    encoder = Simulated(0.05)
    encoder.run(calm + flood, 60.0)
    for k in range(8):
        assert len(encoder.late[f"calm{k}"]) >= 57
        assert max(encoder.late[f"calm{k}"]) < 8 * 0.05
    assert len(encoder.late["flood"]) > 600, "what the others leave is used"
    assert max(encoder.late["flood"]) > 10


def test_late_streams_share_by_their_weights() -> None:
    arrivals = [(k / 40, name, 1 / 40) for name in ("heavy", "light", "other") for k in range(60 * 40)]
    encoder = Simulated(0.05, {"heavy": 2.0})
    encoder.run(arrivals, 60.0)
    done = {name: len(late) for name, late in encoder.late.items()}
    assert done["heavy"] == pytest.approx(2 * done["light"], rel=0.05)
    assert done["light"] == pytest.approx(done["other"], rel=0.05)


# -- shares --


needs = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0, 5), st.floats(0.1, 4)).map(
        lambda it: Need(min(it[0], it[1]), max(it[0], it[1]), it[2])
    ),
    max_size=8,
)


@given(needs, st.floats(0, 20))
def test_shares_keep_floors_wants_and_the_budget(them: list[Need], budget: float) -> None:
    shares = fill(them, budget)
    assert all(need.floor <= share <= need.want for need, share in zip(them, shares, strict=True))
    floors = sum(need.floor for need in them)
    assert sum(shares) <= max(budget, floors) + 1e-6
    if sum(need.want for need in them) > budget > floors:
        assert sum(shares) == pytest.approx(budget, abs=1e-6), "nothing is left over"


def test_shares_go_by_weight_and_what_one_does_not_want_goes_to_the_others() -> None:
    assert fill([Need(0, 9), Need(0, 9, 2.0)], 6) == pytest.approx([2, 4])
    assert fill([Need(0, 1), Need(0, 9), Need(0, 9)], 7) == pytest.approx([1, 3, 3])
    assert fill_by_group([[Need(0, 9)] * 3, [Need(0, 9)]], [1.0, 1.0], 6) == [
        pytest.approx([1, 1, 1]),
        pytest.approx([3]),
    ]


# -- what a unit costs --


def test_the_cost_of_a_loaded_batch_is_learned_from_small_ones() -> None:
    meter, now_s, chance = CostMeter(), 0.0, random.Random(2)
    for _ in range(400):
        units = chance.choice((1, 2, 3))
        seconds = (0.5 if meter.batches < 2 else 0.020) + 0.002 * units  # the first ones are slow
        meter.add(units, units * 64, now_s, now_s + seconds)
        now_s += seconds
    assert meter.unit_tokens == pytest.approx(64)
    assert meter.unit_seconds(1) == pytest.approx(0.022, rel=0.02)
    assert meter.unit_seconds(8) == pytest.approx(0.0045, rel=0.05)
    assert [meter.units_within(s, 16) for s in (0.0, 0.027, 1.0)] == [1, 3, 16]
    assert CostMeter().units_within(0.0, 16) == 16
    assert meter.busy(now_s) > 0.95
    assert meter.busy(now_s + 30) < 0.1


def test_what_a_loaded_batch_saves_is_remembered_and_how_fast_it_is_now_is_not() -> None:
    meter, now_s = CostMeter(), 0.0
    for units in (1, 1, 16, 1, 16, 1):  # as it is tried before the first stream
        meter.add(units, units * 64, now_s, now_s + 0.004 + 0.002 * units)
        now_s += 0.1
    assert meter.unit_seconds(8) == pytest.approx(0.0025, rel=0.05)
    for _ in range(200):  # hours later, on a machine of half the speed, one unit at a time
        now_s += 1.0
        meter.add(1, 64, now_s, now_s + 0.012)
    assert meter.unit_seconds(1) == pytest.approx(0.012, rel=0.01)
    assert meter.unit_seconds(8) == pytest.approx(0.005, rel=0.05)
    assert meter.saving(8) == pytest.approx(1 - 5 / 12, rel=0.05)
    assert meter.saving(1) == 0.0
    assert CostMeter().saving(8) == 0.0


def test_batches_with_hours_between_them_are_not_compared() -> None:
    meter, now_s = CostMeter(), 0.0
    for units in (1, 1, 16, 1, 16, 1):
        meter.add(units, units * 64, now_s, now_s + 0.004 + 0.002 * units)
        now_s += 0.1
    now_s += 3 * 3600.0  # and from then on everything takes ten times as long, as in one large batch
    for _ in range(100):
        meter.add(16, 16 * 64, now_s, now_s + 10 * (0.004 + 0.002 * 16))
        now_s += 0.4
    assert meter.unit_seconds(1) == pytest.approx(0.06, rel=0.02), "a third of it is the part a batch"


def test_batches_of_one_size_tell_only_of_that_size() -> None:
    meter = CostMeter()
    assert (meter.is_known, meter.unit_seconds(8), meter.busy(1.0)) == (False, 0.0, 0.0)
    for k in range(20):
        meter.add(1, 10, k * 0.5, k * 0.5 + 0.05)
    assert meter.unit_seconds(8) == pytest.approx(0.05)
    assert meter.busy(9.55) == pytest.approx(0.1, abs=0.02)


# -- rates --


def wish(late_s: float = 0.0, cost_s: float = 0.1, **changes: float | str) -> Wish:
    given = {"want_fps": 4.0, "least_fps": 1.0, "frame_cost_s": cost_s, "late_s": late_s} | changes
    return Wish(**given)  # type: ignore[arg-type]


def test_nothing_changes_until_something_is_late() -> None:
    control: RateControl[str] = RateControl()
    for tick in range(20):
        rates = control.tick(tick * 0.25, {"a": wish(LATE_S), "b": wish(-0.1)})
        assert {rate.fps for rate in rates.values()} == {4.0}
        assert {rate.reason for rate in rates.values()} == {""}


def test_rates_fall_within_what_clients_accept_and_the_reason_is_told() -> None:
    control: RateControl[str] = RateControl()
    rates = control.tick(0.0, {"gives": wish(1.0), "keeps": wish(1.0, least_fps=4.0)})
    assert rates["keeps"].fps == 4.0
    assert not rates["keeps"].reason
    assert rates["gives"].fps == 4.0  # 0.8 s a second are asked for: TARGET affords it, the floor of one
    rates = control.tick(2.25, {"gives": wish(1.5), "keeps": wish(1.5, least_fps=4.0)})
    assert rates["gives"].fps < 4.0
    assert rates["gives"].reason == "the encoder is 1.5 s late: 2 of 4 frames per second"
    assert control.is_overloaded
    same = control.tick(2.5, {"gives": wish(1.4), "keeps": wish(1.4, least_fps=4.0)})
    assert same["gives"] == rates["gives"], "a reason does not change with every look"


def test_it_is_stuck_where_it_is_late_and_no_rate_can_fall() -> None:
    control: RateControl[str] = RateControl()
    fixed = {"want_fps": 4.0, "least_fps": 4.0}
    control.tick(0.0, {"a": wish(2.0, **fixed), "b": wish(3.0, **fixed), "c": wish(1.0, **fixed)})
    assert control.stuck_s == 3.0
    control.tick(0.25, {"a": wish(0.0, **fixed), "b": wish(-1.0, **fixed)})
    assert control.stuck_s == 0.0
    can_fall = {"a": wish(2.0), "b": wish(3.0, **fixed)}
    control.tick(0.5, can_fall)
    control.tick(0.75, can_fall)
    assert control.stuck_s == 0.0
    control.tick(1.0, {"large": wish(9.0, want_fps=100.0, least_fps=100.0), "b": wish(-1.0, **fixed)})
    assert control.stuck_s == 0.0, "it is late by its own doing"


def test_a_rate_rises_only_after_it_could_have_for_a_while() -> None:
    control: RateControl[str] = RateControl()
    two = {"a": wish(1.0, cost_s=0.2), "b": wish(1.0, cost_s=0.2)}
    assert control.tick(0.0, two)["a"].fps == 2.0
    for at_s in (1.0, 1.0 + RISE_S - 0.1):  # the other one is gone, and nothing is late any more
        assert control.tick(at_s, {"a": wish(0.0, cost_s=0.2)})["a"].fps == 2.0
    assert control.tick(1.0 + RISE_S, {"a": wish(0.0, cost_s=0.2)})["a"].fps == 4.0


def test_tenants_share_by_their_weights() -> None:
    control: RateControl[str] = RateControl()
    many = {f"a{k}": wish(1.0, least_fps=0.1, tenant="a") for k in range(3)}
    one = {"b": wish(1.0, least_fps=0.1, tenant="b", weight=1.0)}
    rates = control.tick(0.0, many | one)
    assert rates["b"].fps == 4.0
    # 0.45 of the model over three streams, 0.1 s a frame, in steps.
    assert {rates[name].fps for name in many} == {1.5}
    favoured = {"b": wish(1.0, least_fps=0.1, tenant="b", weight=0.25)}
    rates = RateControl[str]().tick(0.0, many | favoured)
    assert (rates["a0"].fps, rates["b"].fps) == (2.0, 1.5)


def test_a_stream_that_asks_for_more_than_its_share_costs_others_nothing() -> None:
    control: RateControl[str] = RateControl()
    for tick in range(40):
        greedy = wish(5.0 + tick, want_fps=100.0, least_fps=100.0)
        rates = control.tick(tick * 0.25, {"greedy": greedy, "a": wish(-0.1), "b": wish(-0.1)})
        assert rates["greedy"].fps == 100.0
        # A third of 0.85 each, at 0.1 s a frame, in steps: two frames.
        assert min(rates["a"].fps, rates["b"].fps) >= 2.0
    assert control.is_overloaded


def test_before_frames_are_left_out_a_stream_gives_all_it_can() -> None:
    control: RateControl[str] = RateControl()
    rates = control.tick(0.0, {"a": wish(1.1, cost_s=0.0, max_lag_s=2.0)})
    assert rates["a"].fps == 1.0
    assert rates["a"].reason.endswith("the least that this client accepts")


def overload(
    fall_s: float, after_cost_s: float, streams_after: int, seconds: float, max_lag_s: float = 4.0
) -> tuple[list[tuple[float, float, float]], float]:
    """Ten streams of 2 fps at an encoder that can do 10 frames a second; at `fall_s` the load falls.

    Returns (time, mean fps, worst lateness) a tick, and the seconds that were left out.
    """
    control: RateControl[str] = RateControl()
    queue: DeadlineQueue[str, None] = DeadlineQueue(run_items=4, batch_items=8)
    names, shedding = [f"s{k}" for k in range(10)], {f"s{k}": Shedding(max_lag_s) for k in range(10)}
    for name in names:
        queue.limit(name, max_lag_s)
    rates, next_s = dict.fromkeys(names, 2.0), {name: 0.05 * k for k, name in enumerate(names)}
    told, lost_s, free_s, now_s, tick_s, cost_s = [], 0.0, 0.0, 0.0, 0.0, 0.1
    while now_s < seconds:
        if (now_s >= fall_s and len(names) > streams_after) or (now_s >= fall_s and cost_s != after_cost_s):
            for name in names[streams_after:]:
                queue.drop(name)
            names, cost_s = names[:streams_after], after_cost_s
        for name in names:
            while next_s[name] <= now_s:
                if shedding[name].sheds(queue.late(name, now_s), has_room=True):
                    lost_s += 1 / rates[name]
                else:
                    queue.put(name, None, now_s, 1 / rates[name])
                next_s[name] += 1 / rates[name]
        if now_s >= free_s:
            lost_s += sum(1 / rates[name] for name, _ in queue.expire(now_s))
        if now_s >= free_s and (runs := queue.take(now_s)):
            free_s = now_s + cost_s * sum(len(run.items) for run in runs)
        if now_s >= tick_s:
            late = {name: queue.late(name, now_s) for name in names}
            wishes = {
                name: Wish(
                    want_fps=2.0, least_fps=0.5, frame_cost_s=cost_s, late_s=late[name], max_lag_s=max_lag_s
                )
                for name in names
            }
            rates |= {name: rate.fps for name, rate in control.tick(now_s, wishes).items()}
            told.append((now_s, sum(rates[name] for name in names) / len(names), max(late.values())))
            tick_s += 0.25
        now_s += 0.01
    return told, lost_s


@pytest.mark.parametrize(("after_cost_s", "streams_after"), [(0.1, 4), (0.03, 10)])
def test_overload_costs_frames_per_second_and_is_over_within_ten_seconds(
    after_cost_s: float, streams_after: int
) -> None:
    told, lost_s = overload(40.0, after_cost_s, streams_after, 60.0)
    settled = [each for each in told if 10.0 < each[0] < 40.0]
    assert max(late_s for _, _, late_s in settled) < 2.0, "rates fell far enough"
    assert lost_s == 0.0, "no frame was left out: rates were enough"
    assert 0.5 <= sum(fps for _, fps, _ in settled) / len(settled) < 1.0
    back_s = next(at_s for at_s, fps, _ in told if at_s > 40.0 and fps == 2.0)
    assert back_s - 40.0 < 10.0
    assert all(fps == 2.0 for at_s, fps, _ in told if at_s > back_s), "and it does not come again"
    changes = sum(a[1] != b[1] for a, b in itertools.pairwise(settled))
    assert changes <= 8, "rates do not flap"


def test_when_the_least_rates_are_too_much_frames_are_left_out_and_lateness_stays_bounded() -> None:
    _, lost_s = overload(30.0, 0.1, 2, 45.0, max_lag_s=4.0)
    assert lost_s == 0.0
    # Three times slower: even 0.5 fps of ten streams is more than it can do.
    control_told, lost_s = overload(0.0, 0.3, 10, 60.0, max_lag_s=4.0)
    assert lost_s > 5.0
    assert max(late_s for _, _, late_s in control_told) < 4.0 + 8 * 0.3
    first_late = next(at_s for at_s, _, late_s in control_told if late_s > 2.0)
    assert all(fps == 0.5 for at_s, fps, _ in control_told if first_late <= at_s <= first_late + 1.0)


def test_shedding_begins_at_half_of_the_lag_and_ends_at_a_quarter() -> None:
    shedding = Shedding(2.0)
    assert not shedding.sheds(1.0, has_room=True)
    assert shedding.sheds(1.1, has_room=True)
    assert shedding.sheds(0.6, has_room=True)
    assert not shedding.sheds(0.5, has_room=True)
    assert shedding.sheds(0.1, has_room=False)
    assert not Shedding(2.0).sheds(-1.0, has_room=False), "a burst that is on time waits for room"
    never = Shedding(0.0)
    assert not never.sheds(100.0, has_room=False)


# -- another rate in the middle of a stream --


@pytest.mark.parametrize("frames_per_unit", [1, 2])
@pytest.mark.parametrize("rates", [(2.0, 0.5), (0.5, 2.0), (2.0, 0.75), (4.0, 1.5)])
def test_another_rate_leaves_no_hole_and_shows_nothing_twice(
    rates: tuple[float, float], frames_per_unit: int
) -> None:
    grid = Grid(Fraction(rates[0]), frames_per_unit)
    sampler: Sampler[int] = Sampler(grid, from_us=None, gap_after_us=2_000_000)
    events = []
    for k in range(200):  # 10 fps
        if k == 67:
            sampler.retune(Grid(Fraction(rates[1]), frames_per_unit))
        if sampler.wants(k * 100_000):
            events += sampler.take(k * 100_000, k)
    assert sampler.grid.fps == Fraction(rates[1])
    assert all(isinstance(event, Unit) for event in events), events
    times = [event.time for event in events if isinstance(event, Unit)]
    # A unit begins with its first frame: the next of this source is at most a tenth of a second away.
    assert all(0 <= b.start_us - a.end_us < 100_000 for a, b in itertools.pairwise(times)), times
    period_us = frames_per_unit * 1e6 / rates[1]
    assert all(period_us - 100_000 < t.duration_us <= period_us + 1 for t in times if t.start_us > 12_000_000)


def test_simulations_end() -> None:
    assert CALM_S + RISE_S < 10, "a recovery within ten seconds needs both"
