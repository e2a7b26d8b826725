from __future__ import annotations

import io

import av
import numpy as np
from PIL import Image

from tandem.load.footage import Library, timeline_of
from tandem.load.schedule import PlannedStream

JPEG = PlannedStream(stream="a", start_s=0.0, end_s=60.0, size="64x48", fps=2.0, clip_s=10)
H264 = PlannedStream(stream="b", start_s=0.0, end_s=60.0, size="64x48", fps=5.0, clip_s=10, codec="h264")


def test_a_video_is_drawn_once() -> None:
    library = Library()
    first = library.footage(JPEG)
    assert (
        library.footage(PlannedStream(stream="z", start_s=3.0, end_s=9.0, size="64x48", fps=2.0, clip_s=10))
        is first
    )
    assert len(library) == 1
    assert len(first.frames) == 20
    assert first.pts_us(3) == 1_500_000
    assert first.frame(23) == first.frame(3)


def test_pictures_show_what_the_timeline_says() -> None:
    footage, timeline = Library().footage(JPEG), timeline_of(0, 10)
    shown = timeline.event_of_frame()
    seen = [footage.frame(2 * second) for second in range(10)]
    for one in range(10):
        assert Image.open(io.BytesIO(seen[one])).size == (64, 48)
        for other in range(one):
            assert (seen[one] == seen[other]) == (shown[one] == shown[other])


def test_h264_can_be_played_again_and_again_and_cut_anywhere() -> None:
    footage = Library().footage(H264)
    assert len(footage.frames) == 50
    decoder = av.CodecContext.create("h264", "r")
    count = 0
    for index in range(120):  # two and a half times through
        for packet in decoder.parse(footage.frame(index)):
            count += len(decoder.decode(packet))
    for packet in [*decoder.parse(b""), None]:
        count += len(decoder.decode(packet))
    assert count == 120
    for index in (0, 7, 49, 50, 123):
        assert footage.frame_at(footage.offset(index)) == (index, 0)
        assert footage.frame_at(footage.offset(index) + 1) == (index, 1)
    assert footage.offset(51) == sum(map(len, footage.frames)) + len(footage.frames[0])
    picture = np.asarray(Image.open(io.BytesIO(Library().footage(JPEG).frame(0))))
    assert picture.shape == (48, 64, 3)
