"""The traffic generator says what is: against a server whose every delay, stall and loss is known."""

from __future__ import annotations

import asyncio
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from tandem.client import ClientSettings, MediaKind, connect
from tandem.load.arrivals import Arrivals
from tandem.load.footage import Library
from tandem.load.goals import Goals, judge
from tandem.load.log import EventLog
from tandem.load.measures import measure
from tandem.load.pace import Pace
from tandem.load.planning import plan
from tandem.load.schedule import Schedule
from tandem.load.shard import Shard, run_shard
from tandem.load.workload import Choice, Workload
from tests.integration.timed_server import TimedServer, Truth, serve_timed

PREFIX = "t"
STALL = (3.0, 5.0)
STALLED = Truth(frame_s=0.08, thought_s=0.06, first_token_s=0.12, tokens=4, gap_s=0.03, stall=STALL)
STALLED_LOAD = Workload(
    streams=3,
    warmup_s=1.0,
    duration_s=6.0,
    cooldown_s=0.5,
    question_arrivals=Arrivals.CONSTANT,
    question_rate=4.0,
    clips=1,
    sizes=(Choice("64x48"),),
    kinds=("now",),
)
LOST = (2.0, 3.5)
LOSING = Truth(lost=LOST, most_streams=4, refuse_text="last")
LOSING_LOAD = Workload(
    streams=6,
    warmup_s=1.0,
    duration_s=6.0,
    cooldown_s=0.5,
    question_rate=2.0,
    second_share=0.4,
    event_share=1.0,
    reconnects_per_minute=20.0,
    away_s=0.4,
    clips=2,
    fps=(Choice("1"), Choice("5")),
    codecs=(Choice("jpeg"), Choice("h264")),
    sizes=(Choice("64x48"),),
    kinds=("now", "last"),
    min_fps=0.5,
    max_lag_s=2.5,
    tenant="acme",
    seed=5,
)


@dataclass
class Played:
    """A run and what came of it."""

    schedule: Schedule
    events: list[dict[str, Any]]
    measures: dict[str, Any]
    server: TimedServer

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def slack_s(self) -> float:
        """How late the test's own process was: what it measured may be off by that."""
        return 0.06 + 2 * float(self.measures["harness"]["late_ms"]["max"]) / 1000


async def play(load: Workload, truth: Truth, *, is_right: bool = True) -> Played:
    from hdrh.histogram import HdrHistogram

    schedule = plan(load)
    known = {(f"{PREFIX}-{q.stream}", q.text, q.cut): q.answer for q in schedule.questions}
    if is_right:  # the scripted server knows the answers that the schedule knows, and those only
        truth.answer = lambda *asked: known.get(asked, "no idea")
    library, out = Library(), io.StringIO()
    for planned in schedule.streams:
        library.footage(planned)
    async with serve_timed(truth) as (address, server):
        pace = Pace(time.monotonic() + 0.2)
        shard = Shard(schedule, library, address=address, prefix=PREFIX, log=EventLog(out, pace), pace=pace)
        await run_shard(shard, lambda tick: None, asyncio.Event())
    events = sorted((json.loads(line) for line in out.getvalue().splitlines()), key=lambda e: e["t"])
    histograms = {name: HdrHistogram.decode(text) for name, text in shard.histograms().items()}
    measures = measure(schedule, events, histograms, Goals(), load.total_s)
    return Played(schedule, events, measures, server)


@pytest.fixture(scope="module")
def played() -> tuple[Played, Played]:
    async def both() -> tuple[Played, Played]:
        return await asyncio.gather(play(STALLED_LOAD, STALLED, is_right=False), play(LOSING_LOAD, LOSING))

    return asyncio.run(both())


@pytest.fixture(scope="module")
def stalled(played: tuple[Played, Played]) -> Played:
    return played[0]


@pytest.fixture(scope="module")
def losing(played: tuple[Played, Played]) -> Played:
    return played[1]


def test_delays_are_measured_as_they_are(stalled: Played) -> None:
    calm = [q for q in stalled.of("question") if q["t"] < STALL[0] or q["at"] > STALL[1] + 0.2]
    assert len(calm) > 20
    for question in calm:
        first_s, whole_s = question["first_token"] - question["sent"], question["t"] - question["sent"]
        assert first_s == pytest.approx(0.12, abs=stalled.slack_s)
        assert first_s >= 0.119
        assert whole_s == pytest.approx(0.12 + 3 * 0.03, abs=stalled.slack_s)
        assert len(question["gaps_s"]) == 3
        assert question["first_thought"] - question["sent"] == pytest.approx(0.06, abs=stalled.slack_s)
        assert question["first_thought"] < question["first_token"]
    lags_s = [event["t"] - event["pushed"] for event in stalled.of("seen") if event["t"] < STALL[0]]
    assert lags_s
    assert min(lags_s) >= 0.079
    assert max(lags_s) <= 0.08 + stalled.slack_s


def test_a_stall_shows_in_every_question_that_was_due_meanwhile(stalled: Played) -> None:
    due = [q for q in stalled.schedule.questions if STALL[0] <= q.at_s < STALL[1] - 0.2]
    assert len(due) >= 20  # three streams, four a second each, two seconds
    found = {q["number"]: q for q in stalled.of("question")}
    waited = [found[number] for number, q in enumerate(stalled.schedule.questions) if q in due]
    assert len(waited) == len(due), "a question that was due was not asked"
    zero_s = stalled.server._zero_s
    assert zero_s is not None
    for question in waited:
        assert question["late_s"] <= stalled.slack_s, "the stall slowed the generator"
        # The stall's end, on the run's clock: the first stream opens at the run's zero.
        expected_s = STALL[1] - question["at"]
        assert question["first_token"] - question["at"] >= expected_s - stalled.slack_s
        assert question["first_token"] - question["at"] <= expected_s + 0.12 + 2 * stalled.slack_s
    assert stalled.measures["questions"]["first_token_ms"]["due"]["max"] >= 1700


def test_the_frame_lag_reaches_the_length_of_the_stall(stalled: Played) -> None:
    worst_s = max(lag_s for sample in stalled.of("sample") for lag_s in sample["lags"].values())
    # A watermark covers a second, so that up to one more frame may have been due before the stall.
    assert 1.0 - stalled.slack_s <= worst_s <= 2.08 + stalled.slack_s
    at_rest = [
        lag_s
        for sample in stalled.of("sample")
        if 2.0 < sample["t"] < STALL[0] or sample["t"] > STALL[1] + 0.5
        for lag_s in sample["lags"].values()
    ]
    assert max(at_rest) <= 0.08 + 0.1 + stalled.slack_s


def test_a_stall_breaks_the_goals_and_calm_does_not(stalled: Played) -> None:
    verdicts = {v.goal: v for v in judge(stalled.measures, Goals(first_token_ms=400, attainment=0.95))}
    late = [q for q in stalled.of("question") if q["first_token"] - q["at"] > 1.0]
    assert stalled.measures["questions"]["good"] == stalled.measures["questions"]["attempted"] - sum(
        1.0 <= q["at"] < 7.0 for q in late
    )
    assert not verdicts["attainment"].is_met
    assert verdicts["dropped"].is_met


def test_what_was_lost_is_said_to_the_second(losing: Played) -> None:
    frames = losing.measures["frames"]
    opened = {event["stream"] for event in losing.of("opened")}
    assert len(opened) == 4
    expected = [
        min(7.0, p.media_s + LOST[1]) - max(1.0, p.media_s + LOST[0])
        for p in losing.schedule.streams
        if p.stream in opened
    ]
    assert frames["dropped_s"]["overload"] == pytest.approx(sum(expected), abs=0.01)


def test_refusals_are_told_by_reason(losing: Played) -> None:
    by_what = {(r["what"], r["code"]): r for r in losing.measures["refusals"]}
    assert by_what["stream", "limit_exceeded"]["count"] == 2
    assert losing.measures["streams"]["refused"] == 2
    asked = [q for q in losing.of("question") if "last" in q["text"] and q["sent"]]
    refused = by_what["question", "limit_exceeded"]
    assert refused["count"] == len(asked) > 0
    assert refused["retry_after_s"]["p50"] == 7.0
    without = [q for q in losing.of("question") if q["outcome"] == "no_stream"]
    assert {q["stream"] for q in without} == {p.stream for p in losing.schedule.streams} - {
        e["stream"] for e in losing.of("opened")
    }


def test_streams_are_opened_under_the_conditions_that_were_given(losing: Played, stalled: Played) -> None:
    assert losing.server.conditions == {(0.5, 2500, "acme", False), (0.5, 2500, "acme", True)}
    assert stalled.server.conditions == {(0.0, 0, "", False)}


def test_right_answers_count_as_right(losing: Played) -> None:
    accuracy = losing.measures["accuracy"]
    assert accuracy["marked"] > 20
    assert accuracy["share"] == 1.0


def test_second_clients_and_events(losing: Played) -> None:
    assert losing.measures["second_clients"]["answered"] > 5
    delays = losing.measures["questions"]["event_to_answer_ms"]
    assert delays["n"] > 3
    assert delays["p50"] >= 100


def test_clients_come_back(losing: Played) -> None:
    streams = losing.measures["streams"]
    assert streams["left"] == losing.measures["streams"]["return_ms"]["n"] > 0
    assert streams["memory_lost"] == 0
    ended = {event["stream"]: event["frames"] for event in losing.of("ended")}
    for planned in losing.schedule.streams:
        if planned.stream in ended:
            assert ended[planned.stream] >= int((planned.end_s - planned.media_s) * planned.fps)
    assert not losing.server.streams, "a stream was not ended"


async def test_a_slow_reader_reads_slowly() -> None:
    async with serve_timed(Truth(tokens=3)) as (address, _):
        settings = ClientSettings(read_pause_s=0.15)
        async with connect(address, settings=settings) as t, t.watch(MediaKind.PICTURES) as stream:
            began_s = time.monotonic()
            answer = await stream.ask("what?")
            assert answer.text == "word word word"
            assert time.monotonic() - began_s >= 4 * 0.15  # three words and the record
