"""Pure: turns a workload and its seed into a schedule. More streams only add to the schedule of fewer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tandem.core.errors import InvalidInput
from tandem.load.arrivals import Arrivals, arrival_times
from tandem.load.footage import timeline_of
from tandem.load.known import event_questions, known_question
from tandem.load.schedule import PlannedQuestion, PlannedStream, Schedule
from tandem.load.workload import MAX_STREAMS, STEADY, Choice, Workload, checked
from tandem.shapes.events import Timeline

LIFE_SPREAD = 0.5
"""Of the logarithm of streams' lives."""
SHORTEST_LIFE_S = 3.0
"""Of those that are drawn."""
LEAST_S = 1.0
"""What would be left of a stream at the end of the run that is not worth opening."""
MAX_QUESTIONS = 2_000_000
_STREAMS, _STREAM, _QUESTIONS = 1, 2, 3
"""Which random numbers: of all streams' arrivals, of one stream, of its questions."""


@dataclass(frozen=True, slots=True)
class _Life:
    """One stream's time: which of those that are open at once, and how many came before it there."""

    slot: int
    generation: int
    start_s: float
    end_s: float


def _opening(life: _Life) -> tuple[float, int]:
    return life.start_s, life.slot


def plan(load: Workload) -> Schedule:
    """Everything that will be done. Raises `InvalidInput` for a workload that cannot be."""
    checked(load)
    lives = _steady(load) if load.stream_arrivals == STEADY else _arriving(load)
    living = sorted((life for life in lives if life.end_s - life.start_s >= LEAST_S), key=_opening)
    streams = [_stream(load, life) for life in living]
    if not streams:
        raise InvalidInput("the workload has no stream: give a higher rate or a longer run")
    expected = sum(p.end_s - p.start_s for p in streams) * max(
        load.question_rate, load.question_rate_end or 0.0
    )
    if len(streams) > MAX_STREAMS or expected > MAX_QUESTIONS:
        raise InvalidInput(
            f"{len(streams)} streams with {expected:.0f} questions are over the limits of "
            f"{MAX_STREAMS} and {MAX_QUESTIONS}"
        )
    timelines = {clip: timeline_of(clip, load.clip_s) for clip in {p.clip for p in streams}}
    questions = [
        q
        for life, p in zip(living, streams, strict=True)
        for q in _questions(load, life, p, timelines[p.clip])
    ]
    return Schedule(load, tuple(streams), tuple(sorted(questions, key=lambda q: q.at_s)))


def open_times(load: Workload) -> list[float]:
    """When steady streams are opened: one after the other, over half of the warm-up.

    A stream's place in time does not depend on how many there are, so that a sweep's points compare.
    """
    spread_s = load.warmup_s / 2
    # The low-discrepancy sequence of van der Corput: every prefix of it is spread evenly.
    return [spread_s * _van_der_corput(number) for number in range(load.streams)]


def _van_der_corput(number: int) -> float:
    value, weight = 0.0, 0.5
    while number:
        number, bit = divmod(number, 2)
        value += bit * weight
        weight /= 2
    return value


def _steady(load: Workload) -> Iterator[_Life]:
    for slot, opened_s in enumerate(open_times(load)):
        rng = np.random.default_rng([load.seed, _STREAMS, slot])
        start_s, generation = opened_s, 0
        while start_s < load.total_s:
            end_s = min(load.total_s, start_s + _life_s(rng, load))
            yield _Life(slot, generation, start_s, end_s)
            start_s, generation = end_s, generation + 1


def _arriving(load: Workload) -> Iterator[_Life]:
    rng = np.random.default_rng([load.seed, _STREAMS])
    starts = arrival_times(
        Arrivals(load.stream_arrivals),
        rng,
        start_s=0.0,
        end_s=load.total_s,
        rate=load.stream_rate,
        rate_end=load.stream_rate_end,
        burstiness=load.burstiness,
    )
    for number, start_s in enumerate(starts):
        yield _Life(number, 0, start_s, min(load.total_s, start_s + _life_s(rng, load)))


def _life_s(rng: np.random.Generator, load: Workload) -> float:
    if not load.stream_life_s:
        return math.inf
    median_s = load.stream_life_s * math.exp(-(LIFE_SPREAD**2) / 2)
    return max(SHORTEST_LIFE_S, float(rng.lognormal(math.log(median_s), LIFE_SPREAD)))


def _stream(load: Workload, life: _Life) -> PlannedStream:
    rng = np.random.default_rng([load.seed, _STREAM, life.slot, life.generation])
    start_s, end_s = life.start_s, life.end_s
    fps, size, codec = (_drawn(rng, values) for values in (load.fps, load.sizes, load.codecs))
    is_slow = rng.random() < load.slow_share
    clip, jitter_seed = int(rng.integers(load.clips)), int(rng.integers(1 << 31))
    leaves = arrival_times(
        Arrivals.POISSON, rng, start_s=start_s + 2.0, end_s=end_s - 2.0, rate=load.reconnects_per_minute / 60
    )
    return PlannedStream(
        stream=f"s{life.slot:05d}.{life.generation}",
        start_s=start_s,
        end_s=end_s,
        clip=clip,
        clip_s=load.clip_s,
        fps=float(fps),
        size=size,
        codec=codec,
        jitter_ms=load.jitter_ms,
        min_fps=load.min_fps,
        max_lag_s=load.max_lag_s,
        tenant=load.tenant,
        seed=jitter_seed,
        reconnects=tuple(_apart(leaves, load.away_s + 2.0)),
        away_s=load.away_s,
        slow_pause_s=load.slow_pause_s if is_slow else 0.0,
    )


def _apart(times: Iterable[float], least_s: float) -> Iterator[float]:
    last_s = -math.inf
    for time in times:
        if time - last_s >= least_s:
            yield time
            last_s = time


def _drawn(rng: np.random.Generator, values: tuple[Choice, ...]) -> str:
    weights = np.array([choice.weight for choice in values])
    return values[int(rng.choice(len(values), p=weights / weights.sum()))].value


def _questions(
    load: Workload, life: _Life, planned: PlannedStream, timeline: Timeline
) -> Iterator[PlannedQuestion]:
    rng = np.random.default_rng([load.seed, _QUESTIONS, life.slot, life.generation])
    first_s = planned.media_s + 1.0
    rate, rate_end = load.question_rate, load.question_rate_end
    if rate_end is not None:  # the ramp is over the whole run; this stream has its part of it
        slope = (rate_end - rate) / load.total_s
        rate, rate_end = rate + slope * first_s, rate + slope * planned.end_s
    times = arrival_times(
        load.question_arrivals,
        rng,
        start_s=first_s,
        end_s=planned.end_s,
        rate=rate,
        rate_end=rate_end,
        burstiness=load.burstiness,
    )
    for at_s in times:
        is_second = rng.random() < load.second_share
        question = known_question(rng, planned, timeline, at_s, kinds=load.kinds, second_client=is_second)
        if not _is_away(planned, at_s):
            yield question
    if load.event_share:
        yield from (
            q
            for q in event_questions(rng, planned, timeline, load.event_share)
            if not _is_away(planned, q.at_s)
        )


def _is_away(planned: PlannedStream, at_s: float) -> bool:
    """True while the stream's client is gone by plan: then it does not ask."""
    return any(left - 0.5 <= at_s < left + planned.away_s + 0.5 for left in planned.reconnects)
