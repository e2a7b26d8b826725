"""Timelines, known answers and drawn clips agree with each other."""

import itertools
from pathlib import Path

import numpy as np

from tandem.shapes.events import MAX_BLANK, MAX_SECONDS, Event, Timeline, draw_timeline
from tandem.shapes.questions import Asker
from tandem.shapes.video import demo_clip, read_frames, render_clip, write_mp4
from tandem.shapes.words import COLOUR_NAMES, SHAPES

STAR, MOON = SHAPES.index("star"), SHAPES.index("moon")
RED, BLUE = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("blue")
SMALL = Timeline((Event(STAR, RED, 1, 2), Event(MOON, BLUE, 4, 4), Event(STAR, BLUE, 5, 7)), 8, 3600)


def _ask(kind: str, cut: int | None = None) -> set[tuple[str, str]]:
    asker = Asker(np.random.default_rng(0), SMALL, cut)
    found = (asker.ask(kind, plain=True) for _ in range(60))
    return {(q.text, q.answer) for q in found if q is not None}


def test_known_answers() -> None:
    assert _ask("colour_of_shape") == {("what colour was the moon?", "blue")}
    assert _ask("shape_of_colour") == {("what shape was red?", "star")}
    assert ("what came after the red star?", "a blue moon") in _ask("after")
    assert ("what came after the blue star?", "nothing") in _ask("after")
    assert ("what came before the red star?", "nothing") in _ask("before")
    assert ("how many stars were shown?", "2") in _ask("count_shape")
    assert _ask("count_total") == {("how many shapes were shown?", "3")}
    assert ("when was the blue moon shown?", "01:00:04") in _ask("when")
    shown = _ask("shown_at")
    assert {
        ("what was shown at 01:00:03?", "nothing"),
        ("what was shown at 01:00:06?", "a blue star"),
    } <= shown


def test_answers_as_of_an_earlier_time() -> None:
    assert _ask("count_total", cut=5) == {("how many shapes were shown?", "2")}
    assert _ask("now", cut=4) == {("what is shown now?", "nothing")}
    assert _ask("last", cut=4) == {("what was shown last?", "a red star")}


def test_timelines_keep_their_promises() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 8, 32, 40):
        events = draw_timeline(rng, 1, events=count).events
        assert len(events) == count
        for one, two in itertools.pairwise(events):
            assert (one.shape, one.colour) != (two.shape, two.colour)
            assert 0 <= two.first - one.last - 1 <= MAX_BLANK
            assert one.last - one.first < MAX_SECONDS


def test_h264_file_samples_to_the_timeline(tmp_path: Path) -> None:
    clip = render_clip(3, seconds=8, width=160, height=120, fps=10)
    write_mp4(tmp_path / "clip.mp4", clip)
    read = read_frames(tmp_path / "clip.mp4")
    assert read.shape == clip.sampled().shape
    assert np.abs(read.astype(int) - clip.sampled().astype(int)).mean() < 6


def test_demo_clip_is_always_the_same() -> None:
    one, two = demo_clip(64, 48, 5), demo_clip(64, 48, 5)
    assert np.array_equal(one.frames, two.frames)
    assert one.questions == two.questions
    assert len(one.questions) >= 8
