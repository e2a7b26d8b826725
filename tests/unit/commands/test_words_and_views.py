"""What is printed: for people, for machines, in a terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from tandem.client.types import (
    Answer,
    AnswerDelta,
    ConnectionLost,
    Event,
    FinishReason,
    GapNoticed,
    Limits,
    ModelInfo,
    Opened,
    Progress,
    Recall,
    RecalledBlock,
    Refusal,
    Thought,
    Timings,
)
from tandem.commands.demo_view import DemoView, is_right
from tandem.commands.show import JsonView, PlainView, View
from tandem.commands.show_live import LiveView
from tandem.commands.thinking import ThoughtLines
from tandem.commands.words import (
    Notes,
    error_words,
    event_json,
    event_name,
    evidence_words,
    plain,
    recall_words,
)
from tandem.core.clock import ManualClock
from tandem.core.errors import BadMedia, LimitExceeded, Unavailable, WrongState
from tandem.core.timeline import Gap, GapReason, TimeRange

S = 1_000_000
OPENED = Opened(
    stream_id="door",
    resume_token="secret-token",
    resumed=False,
    next_position=0,
    model=ModelInfo(source="default"),
    sample_fps=2.0,
    limits=Limits(),
)
ANSWER = Answer(
    question_id="q1",
    text="a red square",
    finish_reason=FinishReason.END,
    asked_us=12 * S,
    watermark_us=12 * S,
    evidence=(TimeRange(0, 3 * S), TimeRange(5 * S, 12 * S)),
    timings=Timings(first_token_ms=41.6, total_ms=60.2),
)
STORY: list[Event] = [
    OPENED,
    Progress(received_us=12 * S, watermark_us=11 * S, lag_ms=33.3, blocks=22),
    GapNoticed(gap=Gap(TimeRange(3 * S, 5 * S), GapReason.BACKLOG_FULL)),
    Thought(worker="watcher", time_us=4 * S, text="a square", note=1, time=TimeRange(0, 4 * S)),
    Thought(worker="watcher", time_us=4 * S, text=" came", note=1, time=TimeRange(0, 4 * S), done=True),
    Refusal(error=BadMedia("picture 7 has 0 bytes"), position=7),
    Refusal(error=LimitExceeded("too many questions"), question_id="q2"),
    ConnectionLost(error=Unavailable("the connection broke"), retry_in_s=0.25),
    AnswerDelta(question_id="q1", text="a red "),
    ANSWER,
]


def tell(view: View) -> None:
    view.start("clip.mp4")
    view.asked("q1", "what is shown?", 12 * S)
    view.asked("q2", "and now?", 13 * S)
    for event in STORY:
        view.event(event)
    view.failed("q2", WrongState("no video yet"))
    view.problem(BadMedia("clip.mp4 is cut off"))
    view.finish()


def test_plain_lines_tell_the_story() -> None:
    out = io.StringIO()
    tell(PlainView(out, ManualClock()))
    lines = [line[10:] for line in out.getvalue().splitlines()]
    assert lines == [
        "source    clip.mp4",
        "ask       what is shown?  [at 00:12.0]",
        "ask       and now?  [at 00:13.0]",
        "opened    door, watching 2 fps with default",
        "watched   22 blocks, lag 33 ms",
        "gap       00:03.0-00:05.0 was not watched (backlog full)",
        "note      00:00.0-00:04.0  a square came",
        "refused   picture 7 has 0 bytes at position 7 [bad_media]",
        "lost      the connection broke; trying again",
        "answer    what is shown? -> a red square  "
        "[seen 00:00.0-00:03.0, 00:05.0-00:12.0; first token 42 ms, whole 60 ms]",
        "failed    and now? -> no video yet [wrong_state]",
        "problem   clip.mp4 is cut off [bad_media]",
        "end",
    ]


def test_progress_is_told_now_and_then() -> None:
    out, clock = io.StringIO(), ManualClock()
    view = PlainView(out, clock)
    for number in range(120):
        view.event(Progress(watermark_us=number * S // 10, blocks=number))
        clock.advance(0.1)
    assert len(out.getvalue().splitlines()) == 3


def test_json_lines_have_every_field_but_the_secret() -> None:
    out = io.StringIO()
    tell(JsonView(out))
    assert "secret-token" not in out.getvalue()
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [item["event"] for item in objects] == [
        "source", "asked", "asked", "opened", "progress", "gap_noticed", "thought", "thought", "refusal",
        "refusal", "connection_lost", "answer_delta", "answer", "question_failed", "source_problem",
    ]  # fmt: skip
    by_name = {item["event"]: item for item in objects}
    assert by_name["gap_noticed"]["gap"] == {
        "range": {"start_us": 3 * S, "end_us": 5 * S},
        "reason": "backlog_full",
    }
    assert by_name["answer"]["finish_reason"] == "end"
    assert by_name["answer"]["timings"]["first_token_ms"] == 41.6
    assert by_name["connection_lost"]["error"]["code"] == "unavailable"


def test_the_terminal_shows_state_questions_and_notices() -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    view = LiveView(console)
    tell(view)
    with console.capture() as captured:
        console.print(view._picture())
    picture = captured.get()
    for words in (
        "door  clip.mp4, 2 fps",
        "watched 00:11.0 of 00:12.0 received   lag 33 ms   22 blocks",
        "what is shown?  a red square",
        "00:00.0-00:03.0, 00:05.0-00:12.0",
        "42 ms",
        "no video yet",
        "00:00.0-00:04.0  a square came",
        "00:03.0-00:05.0 was not watched (backlog full)",
        "clip.mp4 is cut off",
    ):
        assert words in picture


def test_the_demo_puts_the_truth_beside_the_answer() -> None:
    out = io.StringIO()
    view = DemoView({(12 * S, "what is shown?"): "a red square", (13 * S, "and now?"): "nothing"}, out)
    tell(view)
    lines = out.getvalue().splitlines()
    answered = next(line for line in lines if "what is shown?" in line)
    assert answered.split("  ")[0].strip() == "00:12.0"
    assert "✓" in answered
    assert answered.endswith("42 ms")
    failed = next(line for line in lines if "and now?" in line)
    assert "✗" in failed
    assert "no video yet" in failed
    assert (view.lags_ms, view.blocks, len(view.gaps)) == ([33.3], 22, 1)


def test_right_is_what_says_the_same() -> None:
    assert is_right("A red square.", "a red square")
    assert is_right(" 00 : 29", "00:29")
    assert not is_right("a red squar", "a red square")
    assert not is_right("", "nothing")


def test_long_evidence_is_cut_in_the_middle() -> None:
    spans = tuple(TimeRange(number * S, number * S + 1) for number in range(0, 20, 2))
    many = Answer(
        question_id="q", text="", finish_reason=FinishReason.END, asked_us=0, watermark_us=0, evidence=spans
    )
    assert evidence_words(many) == "00:00.0-00:00.0, 00:02.0-00:02.0, 7 more, 00:18.0-00:18.0"
    assert evidence_words(Answer(**{**fields(many), "evidence": ()})) == "nothing seen"


def fields(answer: Answer) -> dict[str, object]:
    return {name: getattr(answer, name) for name in Answer.__dataclass_fields__}


RECALLED = replace(
    ANSWER,
    recall=Recall(
        strategy="rekv",
        blocks=(
            RecalledBlock(time=TimeRange(0, S), score=2.0, layers=3),
            RecalledBlock(time=TimeRange(S, 2 * S), score=1.0, layers=1),
        ),
        skipped=2,
        lost=1,
        disk_bytes=1_250_000,
    ),
)


def test_what_came_back_of_older_video_is_told() -> None:
    assert recall_words(ANSWER) == ""
    assert recall_words(replace(ANSWER, recall=Recall(strategy="recent"))) == "recalled nothing by recent"
    words = "recalled 00:00.0-00:02.0 by rekv, 2 left out for want of time, 1 could not be read"
    assert recall_words(RECALLED) == f"{words}, 1.2 MB from disk"
    out = io.StringIO()
    view = PlainView(out, ManualClock())
    view.event(Progress(watermark_us=3 * S, durable_watermark_us=2 * S, blocks=3))
    view.event(RECALLED)
    assert "watched   3 blocks, lag 0 ms, on disk 00:02.0" in out.getvalue()
    assert f"; {words}, 1.2 MB from disk; first token 42 ms" in out.getvalue()
    out = io.StringIO()
    JsonView(out).event(RECALLED)
    assert json.loads(out.getvalue())["recall"]["blocks"][1]["time"] == {"start_us": S, "end_us": 2 * S}
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    live = LiveView(console)
    live.start("clip.mp4")
    live.asked("q1", "what is shown?", 12 * S)
    live.event(Progress(watermark_us=3 * S, durable_watermark_us=2 * S))
    live.event(RECALLED)
    live.finish()
    with console.capture() as captured:
        console.print(live._picture())
    assert "on disk 00:02.0" in captured.get()
    assert "recalled 00:00.0-00:02.0 by rekv" in captured.get()


def test_names_and_values_for_machines() -> None:
    assert event_name(GapNoticed(gap=Gap(TimeRange(0, 1), GapReason.SOURCE))) == "gap_noticed"
    assert plain({"a": (1, FinishReason.STOP), "b": None}) == {"a": [1, "stop"], "b": None}
    assert json.loads(event_json(OPENED))["limits"]["resume_s"] == 0.0


def test_thoughts_come_out_as_lines_of_each_worker() -> None:
    lines = ThoughtLines()

    def add(number: int, text: str) -> list[tuple[str, str]]:
        return lines.add(Thought(worker=f"w{number}", time_us=0, text=text, question_id="q", number=number))

    assert add(0, "I look at ") == []
    assert add(1, "me too") == []
    assert add(0, "the door.\n\nThen") == [("w0", "I look at the door.")]
    assert lines.unfinished() == [("w0", "Then"), ("w1", "me too")]
    words = "word " * 30
    assert add(0, words)[0][1].startswith("Thenword word")
    assert len(add(1, words)[0][1]) >= 100
    assert [worker for worker, _ in lines.rest("q")] == ["w0", "w1"]
    assert lines.rest() == []
    assert lines.add(Thought(worker="w", time_us=0, text=" a note ")) == [("w", "a note")]


def test_a_note_that_came_to_nothing_is_shown_as_such() -> None:
    told = Thought(worker="watcher", time_us=S, text="a door", note=3, done=True, failed=True)
    assert Notes().add(told).endswith("a door  [not kept]")
    assert Notes().add(replace(told, failed=False)).endswith("a door")


def test_a_lower_rate_is_told_with_its_reason_and_so_is_its_end() -> None:
    out = io.StringIO()
    view = PlainView(out, ManualClock())
    view.event(OPENED)
    for fps, reason in (
        (2.0, ""),
        (0.5, "the encoder is 1.0 s late"),
        (0.5, "the encoder is 1.0 s late"),
        (2.0, ""),
    ):
        view.event(Progress(sample_fps=fps, rate_reason=reason))
    lines = [line.strip() for line in out.getvalue().splitlines() if " rate " in line]
    assert [line.split("  ", 1)[1].split(None, 1)[1] for line in lines] == [
        "0.5 frames per second: the encoder is 1.0 s late",
        "2 frames per second again",
    ]


def test_a_refusal_says_when_to_come_back() -> None:
    assert error_words(LimitExceeded("no room", retry_after_s=12.3)) == (
        "no room; try again in 12 s [limit_exceeded]"
    )
    assert error_words(LimitExceeded("no room")) == "no room [limit_exceeded]"
    assert error_words(LimitExceeded("no room", retry_after_s=0.1)) == "no room [limit_exceeded]"
