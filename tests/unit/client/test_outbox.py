"""The outbox against what its drawing promises, and against a naive model."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.client.outbox import Ask, Cancel, End, Media, Outbox
from tandem.client.types import PictureFormat


def drain(box: Outbox) -> list[object]:
    taken = []
    while (entry := box.take()) is not None:
        taken.append(entry)
    return taken


def positions(entries: list[object]) -> list[int]:
    return [entry.position for entry in entries if isinstance(entry, Media)]


def picture_box(count: int, size: int = 10, *, window: int = 1000, retain: int = 1000) -> Outbox:
    box = Outbox(window_bytes=window, retain_bytes=retain)
    for number in range(count):
        box.add_media(bytes(size), pts_us=number * 100, picture=PictureFormat.JPEG)
    return box


def test_everything_is_taken_once_in_order() -> None:
    box = picture_box(2)
    box.add(Ask(question_id="q", text="?"))
    box.add_media(b"x", pts_us=200, picture=PictureFormat.JPEG)
    box.add(End(forget=False))
    kinds = [type(entry).__name__ for entry in drain(box)]
    assert kinds == ["Media", "Media", "Ask", "Media", "End"]
    assert drain(box) == []


def test_the_window_opens_when_the_server_has_received() -> None:
    box = picture_box(3, size=10, window=30)
    assert not box.has_room(1)
    drain(box)
    assert not box.has_room(1), "sent is not received"
    box.acknowledge(safe_position=0, received_us=101)
    assert box.in_flight_bytes == 10
    assert box.kept_bytes == 30, "received may still be asked for again"
    box.acknowledge(safe_position=3, received_us=101)
    assert (box.in_flight_bytes, box.kept_bytes) == (0, 0)


def test_bytes_without_times_are_acknowledged_by_position() -> None:
    box = Outbox(window_bytes=20, retain_bytes=50)
    for _ in range(2):
        box.add_media(bytes(10), pts_us=None)
    assert not box.has_room(1)
    box.acknowledge(safe_position=0, received_us=0, received_position=15)
    assert (box.in_flight_bytes, box.kept_bytes) == (10, 20)
    box.acknowledge(safe_position=0, received_us=0, received_position=20)
    assert box.in_flight_bytes == 0
    assert box.has_room(20)
    box.rewind(0)
    assert box.in_flight_bytes == 20, "on another call it is sent again"


def test_one_message_larger_than_the_window_fits_into_an_empty_one() -> None:
    box = Outbox(window_bytes=10, retain_bytes=10)
    assert box.has_room(100)
    box.add_media(bytes(100), pts_us=None)
    assert not box.has_room(1)


def test_a_new_connection_repeats_from_where_the_server_stands() -> None:
    box = picture_box(5)
    drain(box)
    box.acknowledge(safe_position=1, received_us=0)
    assert box.rewind(3) is None
    assert positions(drain(box)) == [3, 4]
    assert box.rewind(1) is None
    assert positions(drain(box)) == [1, 2, 3, 4]


def test_bytes_are_cut_where_the_server_stands() -> None:
    box = Outbox(window_bytes=1000, retain_bytes=1000)
    box.add_media(b"abcdef", pts_us=None)
    box.add_media(b"ghi", pts_us=None)
    drain(box)
    box.rewind(4)
    again = [entry for entry in drain(box) if isinstance(entry, Media)]
    assert [(entry.position, entry.data) for entry in again] == [(4, b"ef"), (6, b"ghi")]


def test_open_questions_are_repeated_in_place_and_settled_ones_are_not() -> None:
    box = picture_box(1)
    box.add(Ask(question_id="a", text="?"))
    box.add(Ask(question_id="b", text="?"))
    box.add(Cancel(question_id="b"))
    box.add_media(b"x", pts_us=100, picture=PictureFormat.JPEG)
    drain(box)
    box.settle("a")
    box.rewind(0)
    kinds = [(type(entry).__name__, getattr(entry, "question_id", None)) for entry in drain(box)]
    assert kinds == [("Media", None), ("Ask", "b"), ("Cancel", "b"), ("Media", None)]
    box.settle("b")
    box.rewind(2)
    assert drain(box) == []


def test_the_oldest_received_media_is_forgotten_first_and_told() -> None:
    box = picture_box(10, size=10, window=50, retain=50)
    drain(box)
    assert box.kept_bytes == 100, "what was not received is never forgotten"
    box.acknowledge(safe_position=0, received_us=801)
    assert box.kept_bytes == 50
    forgotten = box.rewind(2)
    assert forgotten is not None
    assert (forgotten.start, forgotten.end, forgotten.resumes_at_us) == (2, 5, 500)
    assert positions(drain(box)) == [5, 6, 7, 8, 9]


def test_a_stream_of_another_client_goes_on_where_it_was() -> None:
    box = Outbox(window_bytes=10, retain_bytes=10)
    box.start_at(7)
    assert box.add_media(b"x", pts_us=0, picture=PictureFormat.JPEG).position == 7
    assert positions(drain(box)) == [7]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(1, 40)),
        st.tuples(st.just("send"), st.integers(1, 5)),
        st.tuples(st.just("acknowledge"), st.integers(0, 400)),
        st.tuples(st.just("lose"), st.integers(0, 400)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=200)
@given(steps)
def test_the_server_ends_up_with_every_byte(script: list[tuple[str, int]]) -> None:
    """Against a server that keeps a prefix, acknowledges some of it, and loses any of the rest."""
    box = Outbox(window_bytes=1 << 20, retain_bytes=1 << 20)
    pushed, server, safe = b"", b"", 0

    def receive(entry: object) -> None:
        nonlocal server
        assert isinstance(entry, Media)
        assert entry.position == len(server)
        server += entry.data

    for action, amount in script:
        if action == "push":
            data = bytes((len(pushed) + index) % 251 for index in range(amount))
            box.add_media(data, pts_us=None)
            pushed += data
        elif action == "send":
            for _ in range(amount):
                if (entry := box.take()) is not None:
                    receive(entry)
        elif action == "acknowledge":
            safe = max(safe, min(amount, len(server)))
            box.acknowledge(safe_position=safe, received_us=0)
        else:
            server = server[: max(safe, min(amount, len(server)))]
            assert box.rewind(len(server)) is None
    for entry in drain(box):
        receive(entry)
    assert server == pushed
    box.acknowledge(safe_position=len(pushed), received_us=0)
    assert (box.kept_bytes, box.in_flight_bytes) == (0, 0)
