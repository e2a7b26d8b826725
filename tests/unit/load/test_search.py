from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem.load.search import Point, Search, Step, conclusion, knee


def run(search: Search, capacity: int) -> tuple[list[Point], Step]:
    points: list[Point] = []
    while (step := search.next_step(points)).streams is not None:
        points.append(Point(step.streams, () if step.streams <= capacity else ("attainment",)))
    return points, step


@given(
    capacity=st.integers(0, 3000),
    first=st.integers(1, 64),
    most=st.integers(1, 2000),
    resolution=st.floats(0.0, 0.5),
)
def test_the_knee_is_found_from_anywhere(capacity: int, first: int, most: int, resolution: float) -> None:
    search = Search(first=first, most=most, resolution=resolution, most_points=40)
    points, step = run(search, capacity)
    found = conclusion(points, step)
    passing, failing = found["max_passing"], found["first_failing"]
    assert all(1 <= point.streams <= most for point in points)
    assert found["monotonic"]
    if capacity >= most:
        assert (passing, failing) == (most, None)
    elif capacity == 0:
        assert (passing, failing) == (None, 1)
    else:
        assert passing <= capacity < failing
        assert failing - passing <= max(1, int(passing * resolution))
        assert found["confirmed"]
        assert found["broken"] == ["attainment"]
    assert len(points) <= 26


def test_a_doubling_is_followed_by_a_bisection() -> None:
    points, _ = run(Search(first=4, resolution=0.0), 11)
    assert [point.streams for point in points] == [4, 8, 16, 12, 10, 11, 11]


def test_a_lucky_pass_is_found_out() -> None:
    points = [Point(4), Point(8, ("attainment",)), Point(6), Point(7, ("dropped",))]
    search = Search(first=4, resolution=0.0)
    assert search.next_step(points).streams == 6  # once more
    points.append(Point(6, ("attainment",)))
    assert search.next_step(points).streams == 5
    points += [Point(5), Point(5)]
    found = conclusion(points, search.next_step(points))
    assert knee(points) == (5, 6)
    assert not found["monotonic"]  # six passed once, and failed once
    assert found["broken"] == ["attainment"]


def test_it_ends_where_it_is_not_the_streams_alone() -> None:
    failed = ("attainment",)
    points = [Point(4), Point(8), Point(16, failed), Point(8, failed), Point(6, failed), Point(5, failed)]
    search = Search(resolution=0.0)
    assert search.next_step(points).streams == 4
    step = search.next_step([*points, Point(4, failed)])
    assert step.streams is None
    assert "4 and 8 passed and failed" in step.reason


def test_it_ends_after_so_many_points() -> None:
    points = [Point(1)] * 3
    assert Search(most_points=3).next_step(points).streams is None
