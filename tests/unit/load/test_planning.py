from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import InvalidInput
from tandem.load.footage import timeline_of
from tandem.load.known import known_question, seconds_seen
from tandem.load.planning import plan
from tandem.load.schedule import PlannedStream, read_schedule, schedule_lines
from tandem.load.workload import Choice, Workload, checked, choices, size_of, workload_from_dict
from tandem.shapes.questions import Asker

EVERYTHING = Workload(
    streams=6,
    duration_s=80.0,
    stream_life_s=30.0,
    fps=(Choice("1"), Choice("12.5", 0.5)),
    codecs=(Choice("jpeg"), Choice("h264")),
    jitter_ms=20.0,
    event_share=0.5,
    second_share=0.3,
    slow_share=0.3,
    reconnects_per_minute=2.0,
    min_fps=0.5,
    max_lag_s=3.0,
    tenant="acme",
)


def test_a_schedule_comes_back_from_its_lines() -> None:
    schedule = plan(EVERYTHING)
    assert read_schedule(schedule_lines(schedule), Workload()) == schedule
    assert plan(EVERYTHING) == schedule
    assert plan(replace(EVERYTHING, seed=2)) != schedule
    assert {(p.min_fps, p.max_lag_s, p.tenant) for p in schedule.streams} == {(0.5, 3.0, "acme")}


def test_more_streams_change_nothing_of_the_others() -> None:
    few, many = plan(EVERYTHING), plan(replace(EVERYTHING, streams=11))
    assert set(few.streams) < set(many.streams)
    assert set(few.questions) < set(many.questions)


def test_steady_streams_replace_each_other() -> None:
    schedule = plan(replace(EVERYTHING, reconnects_per_minute=0.0))
    slots = {planned.stream.split(".")[0] for planned in schedule.streams}
    assert len(slots) == 6
    assert len(schedule.streams) > 12
    for slot in slots:
        lives = [planned for planned in schedule.streams if planned.stream.startswith(slot)]
        assert all(before.end_s == after.start_s for before, after in pairwise(lives))
        assert lives[-1].end_s >= EVERYTHING.total_s - 1.0


def test_shards_divide_everything() -> None:
    schedule = plan(EVERYTHING)
    shards = [schedule.shard(number, 3) for number in range(3)]
    assert sorted(s.stream for shard in shards for s in shard.streams) == sorted(
        s.stream for s in schedule.streams
    )
    assert sum(len(shard.questions) for shard in shards) == len(schedule.questions)


def test_nobody_asks_while_its_client_is_away() -> None:
    schedule = plan(EVERYTHING)
    streams = {planned.stream: planned for planned in schedule.streams}
    assert any(planned.reconnects for planned in streams.values())
    for question in schedule.questions:
        planned = streams[question.stream]
        assert not any(left <= question.at_s < left + planned.away_s for left in planned.reconnects)
        assert planned.media_s < question.at_s < planned.end_s


@settings(max_examples=60, deadline=None)
@given(at_s=st.floats(0.0, 170.0), seed=st.integers(0, 1000), codec=st.sampled_from(["jpeg", "h264"]))
def test_the_known_answer_is_that_of_what_was_seen(at_s: float, seed: int, codec: str) -> None:
    planned = PlannedStream(stream="s", start_s=0.0, end_s=180.0, codec=codec, fps=5.0)
    timeline = timeline_of(0, 60)
    question = known_question(np.random.default_rng(seed), planned, timeline, at_s, kinds=("now",))
    cut = seconds_seen(planned, at_s)
    assert question.cut == cut
    # Only frames that were due before the question count, and no more than one is left out.
    assert cut - 1 <= at_s - planned.media_s or cut == 0
    assert at_s - planned.media_s < cut + 0.3
    if cut:
        shown = timeline.event_of_frame()[(cut - 1) % timeline.frames]
        expected = Asker(np.random.default_rng(0), timeline, (cut - 1) % timeline.frames + 1).ask("now")
        assert expected is not None
        assert question.answer == expected.answer
        assert (question.answer == "nothing") == (shown < 0)


def test_a_repeated_video_is_asked_only_what_has_one_answer() -> None:
    planned = PlannedStream(stream="s", start_s=0.0, end_s=600.0)
    timeline = timeline_of(0, 60)
    rng = np.random.default_rng(1)
    asked = [known_question(rng, planned, timeline, 100.0 + at) for at in range(80)]
    assert {question.about for question in asked} == {"now", "shown_at"}
    times = [q.text for q in asked if q.about == "shown_at"]
    assert times
    assert all("01:" in text or "02:" in text for text in times), "times of the stream, not of the video"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"kind":"dance"}',
        '{"kind":"stream","stream":"../x","start_s":0,"end_s":9}',
        '{"kind":"stream","stream":"a","start_s":5,"end_s":1}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":1e999}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"codec":"vp9"}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"fps":"many"}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"size":"1x1"}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"clip":-1}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"surprise":1}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"min_fps":-1}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"max_lag_s":"never"}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"tenant":"../x"}',
        '{"kind":"stream","stream":"a","start_s":0,"end_s":9,"tenant":0}',
        '{"kind":"question","stream":"a","at_s":1,"text":""}',
        '{"kind":"question","stream":"a","at_s":true,"text":"x"}',
        '{"kind":"question","stream":"ghost","at_s":1,"text":"x"}',
        '{"kind":"run","workload":{"streams":0}}',
        '{"kind":"run","workload":{"nonsense":0}}',
        '{"kind":"run"}',
        '{"kind":"stream","stream":"ok","start_s":0,"end_s":9}' + " " * 70_000,
    ],
)
def test_a_bad_trace_is_refused(line: str) -> None:
    good = '{"kind":"stream","stream":"ok","start_s":0,"end_s":9}'
    assert read_schedule([good, ""], Workload()).streams[0].fps == 1.0
    with pytest.raises(InvalidInput):
        read_schedule([good, line], Workload())
    with pytest.raises(InvalidInput, match="no stream"):
        read_schedule([], Workload())


def test_a_workload_comes_back_from_json() -> None:
    assert workload_from_dict(json.loads(json.dumps(EVERYTHING.as_dict()))) == EVERYTHING


@pytest.mark.parametrize(
    "change",
    [
        {"streams": 0},
        {"duration_s": 0.0},
        {"duration_s": float("nan")},
        {"second_share": 1.5},
        {"min_fps": -1.0},
        {"max_lag_s": float("inf")},
        {"tenant": "a b"},
        {"codecs": (Choice("vp9"),)},
        {"fps": (Choice("fast"),)},
        {"stream_arrivals": "poisson"},
        {"clip_s": 100_000},
        {"burstiness": 0.0},
    ],
)
def test_a_workload_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        checked(replace(EVERYTHING, **change))  # type: ignore[arg-type]


def test_choices_have_weights() -> None:
    assert choices("1:3, 25") == (Choice("1", 3.0), Choice("25", 1.0))
    for text in ("", ":1", "1:0", "1:x", "1:inf"):
        with pytest.raises(ValueError, match="weights"):
            choices(text)
    assert size_of("320x240") == (320, 240)
    for text in ("320", "320x241", "9x10", "99999x99999", "ax b"):
        with pytest.raises(InvalidInput):
            size_of(text)
