"""Files, pipes and directories as pieces: nothing lost, times kept, breakage told after the rest was read."""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest
from PIL import Image

from tandem.client import Limits, MediaKind, ModelInfo, Opened, PictureFormat
from tandem.client.sources import Piece, Source, open_source
from tandem.client.sources.choose import _without_password
from tandem.core.errors import BadMedia, InvalidInput, NotFound, Unavailable
from tests.unit.client.media_files import write_audio, write_video


def opened(sample_fps: float = 2.0, max_pixels: int = 0) -> Opened:
    return Opened(
        stream_id="s",
        resume_token="t",
        resumed=False,
        next_position=0,
        model=ModelInfo(),
        sample_fps=sample_fps,
        limits=Limits(max_picture_pixels=max_pixels),
    )


def decoded(pieces: list[Piece], container: str | None = None) -> list[tuple[float, int]]:
    """Time and grey level of every frame, as a server sees them."""
    with av.open(io.BytesIO(b"".join(piece.data for piece in pieces)), format=container) as file:
        frames = [(frame.time or 0.0, frame.to_image().getpixel((5, 5))[0]) for frame in file.decode(video=0)]
    return [(round(time - frames[0][0], 3), grey) for time, grey in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "mov"])
@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_h264_is_passed_on_frame_by_frame(tmp_path: Path, suffix: str, b_frames: str) -> None:
    options = {"g": "20", "bf": b_frames, "x264-params": "b-adapt=0:scenecut=0"}
    source = open_source(str(write_video(tmp_path / f"clip.{suffix}", options=options)))
    assert source.media.kind is MediaKind.MPEG_TS
    pieces = list(source.pieces())
    frames = decoded(pieces)
    assert [time for time, _ in frames] == [number / 10 for number in range(50)]
    assert all(abs(grey - 4 * number) <= 3 for number, (_, grey) in enumerate(frames))
    assert max(piece.pts_us for piece in pieces) == 4_900_000


def test_pieces_tell_what_came_before_them_although_frames_are_reordered(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mp4", options={"g": "20", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
    )
    pieces = list(open_source(str(path)).pieces())
    order = [piece.pts_us for piece in pieces]
    assert order != sorted(order), "the file has B frames"
    for index, piece in enumerate(pieces):
        shown = sorted(p.pts_us for p in pieces[:index])
        missing = [p.pts_us for p in pieces[index:] if p.pts_us < piece.complete_us]
        assert not missing, (piece.complete_us, shown)
    assert [p.due_us for p in pieces] == sorted(p.due_us for p in pieces)
    assert pieces[0].due_us == 0


def test_a_bare_byte_stream_goes_unchanged_with_its_frame_rate(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.h264", options={"g": "20", "bf": "0"})
    source = open_source(str(path))
    assert source.media.kind is MediaKind.H264_ANNEX_B
    assert source.media.nominal_fps > 0
    assert b"".join(piece.data for piece in source.pieces()) == path.read_bytes()


def test_other_codecs_become_pictures_no_more_than_are_watched(tmp_path: Path) -> None:
    source = open_source(str(write_video(tmp_path / "clip.avi", codec="mpeg4")))
    assert source.media.kind is MediaKind.PICTURES
    source.adapt(opened(sample_fps=2.0, max_pixels=1000))
    pieces = list(source.pieces())
    assert [piece.pts_us for piece in pieces] == [number * 500_000 for number in range(10)]
    for number, piece in enumerate(pieces):
        assert piece.picture is PictureFormat.JPEG
        with Image.open(io.BytesIO(piece.data)) as image:
            assert image.width * image.height <= 1000
            assert abs(image.getpixel((5, 5))[0] - 20 * number) <= 8


def test_a_file_cut_off_before_its_index_cannot_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BadMedia, match=r"clip\.mp4 cannot be read as video"):
        open_source(str(path))


def test_a_cut_file_is_read_as_far_as_it_goes_and_then_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    pieces: list[Piece] = []
    with pytest.raises(BadMedia, match=r"clip\.mp4 .*sent"):
        collect(open_source(str(path)), pieces)
    frames = decoded(pieces)
    assert len(frames) > 10
    assert frames[10][0] == 1.0


def collect(source: Source, into: list[Piece]) -> None:
    for piece in source.pieces():
        into.append(piece)  # noqa: PERF402 (what came before the error must stay)


def test_rubbish_in_the_middle_does_not_stop_the_rest(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.ts", frames=100)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    pieces = list(open_source(str(path)).pieces())
    assert pieces[-1].pts_us >= 9_000_000


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("hello " * 100)
    for name in ("empty.mp4", "text.mp4"):
        with pytest.raises(BadMedia, match=name):
            open_source(str(tmp_path / name))
    with pytest.raises(BadMedia, match="no video in it"):
        open_source(str(write_audio(tmp_path / "sound.wav")))
    with pytest.raises(NotFound, match="no such file"):
        open_source(str(tmp_path / "missing.mp4"))
    with pytest.raises(NotFound, match="no pictures in"):
        open_source(str(tmp_path))
    with pytest.raises(InvalidInput, match="-1"):
        open_source(str(tmp_path), fps=-1)


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises((NotFound, Unavailable), match="/dev/video97"):
        open_source("/dev/video97")
    with pytest.raises(Unavailable, match=r"rtsp://127\.0\.0\.1:9/live"):
        open_source("rtsp://user:secret@127.0.0.1:9/live")


def test_passwords_are_not_shown() -> None:
    assert _without_password("rtsp://user:secret@cam/1") == "rtsp://cam/1"


def test_a_directory_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.new("RGB", (8, 8), (number,) * 3).save(tmp_path / f"frame{number}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "frame11.bmp")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "frame12.jpg").write_bytes(b"")
    source = open_source(str(tmp_path), fps=2.0)
    assert source.media.kind is MediaKind.PICTURES
    pieces = list(source.pieces())
    assert [Path(piece.name).name for piece in pieces] == [
        "frame1.png",
        "frame2.png",
        "frame10.png",
        "frame11.bmp",
        "frame12.jpg",
    ]
    assert [piece.pts_us for piece in pieces] == [0, 500_000, 1_000_000, 1_500_000, 2_000_000]
    assert pieces[0].data == (tmp_path / "frame1.png").read_bytes()
    assert pieces[3].picture is PictureFormat.JPEG
    assert pieces[3].data.startswith(b"\xff\xd8")
    assert pieces[4].data == b"", "an empty file is left for the stream to refuse by its name"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://me:p@ss@camera/x",
        "rtsp://me:p/ss@camera/x",
        "rtsp://camera/x?password=pass",
        "rtsp://camera/x",
    ],
)
def test_the_name_of_an_address_has_no_password(url: str) -> None:
    assert _without_password(url) == "rtsp://camera/x"
