"""What every retrieval strategy must do; a new strategy is one row in SELECTORS."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from reasoner_svc.retrieve.index import MemoryIndex
from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.select import Limits, Query, Reads, Seen, Selection, Selector, descriptor_of
from reasoner_svc.retrieve.strategies import STRATEGIES, make_selector
from tandem.core.errors import InvalidInput
from tandem.core.timeline import TimeRange

LAYERS, KEYS, EMBEDDING = 3, 8, 6


@dataclass(frozen=True)
class Row:
    make: Callable[[], Selector]
    takes_all: int = 1 << 30
    """Up to how many held blocks it selects all of them when the limits allow it."""


SELECTORS = {
    "rekv, dot": Row(lambda: make_selector("rekv")),
    "rekv, cosine": Row(lambda: make_selector("rekv_cosine")),
    "external": Row(lambda: make_selector("external")),
    "recent": Row(lambda: make_selector("recent"), takes_all=0),
    "uniform": Row(lambda: make_selector("uniform")),
    "flash_vstream": Row(lambda: make_selector("flash_vstream", temporal=9, abstract=3), takes_all=9),
    "video_streaming": Row(lambda: make_selector("video_streaming", clip_blocks=5, condensed=2), takes_all=2),
    "video_streaming, external": Row(
        lambda: make_selector("video_streaming", clip_blocks=4, condensed=4, by="external")
    ),
}

KEEP_STATE = {"flash_vstream"}
"""Their memory moves on with the stream: from an older snapshot they choose what both still hold."""


@dataclass
class Stream:
    selector: Selector
    equal: bool = False
    """All blocks alike: every score is a tie."""
    index: MemoryIndex = field(
        default_factory=lambda: MemoryIndex(
            layers=LAYERS, key_dim=KEYS, embedding_dim=EMBEDDING, chunk_rows=8
        )
    )
    next_number: int = 1

    def append(self, blocks: int, fill: float | None = None) -> None:
        for number in range(self.next_number, self.next_number + blocks):
            generator = torch.Generator().manual_seed(0 if self.equal else number)
            keys = torch.randn(LAYERS, KEYS, generator=generator)
            embedding = torch.randn(EMBEDDING, generator=generator)
            if fill is not None:
                keys.fill_(fill)
                embedding.fill_(fill)
            tokens, start_us = 3 + number % 4, number * 1_000_000
            self.index.append(number, TimeRange(start_us, start_us + 1_000_000), tokens, keys, embedding)
            self.selector.observe(
                Seen(
                    number=number,
                    start_us=start_us,
                    tokens=tokens,
                    descriptor=descriptor_of(keys),
                )
            )
        self.next_number += blocks


def query(layer: int = 1, seed: int = 0) -> Query:
    generator = torch.Generator().manual_seed(1000 + seed)
    internal, external = (torch.randn(size, generator=generator) for size in (KEYS, EMBEDDING))
    return Query(layer=layer, internal=internal, external=external)


def checked(selection: Selection, memory: IndexView, limits: Limits) -> Selection:
    numbers = selection.numbers.tolist()
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(memory.numbers.tolist())
    assert len(numbers) <= limits.blocks
    tokens = int(memory.tokens[memory.rows_of(selection.numbers)].sum())
    assert not limits.tokens or tokens <= limits.tokens
    assert selection.numbers.dtype == torch.int64
    assert selection.scores.dtype == torch.float32
    assert selection.scores.shape == selection.numbers.shape
    assert torch.isfinite(selection.scores).all()
    assert selection.reason
    return selection


@pytest.fixture(params=SELECTORS.values(), ids=SELECTORS.keys())
def row(request: pytest.FixtureRequest) -> Row:
    made: Row = request.param
    return made


LIMITS = [
    Limits(blocks=0),
    Limits(blocks=1),
    Limits(blocks=7),
    Limits(blocks=10_000),
    Limits(blocks=8, chunk=3),
    Limits(blocks=2, chunk=5),
    Limits(blocks=9, tokens=1),
    Limits(blocks=9, tokens=17),
    Limits(blocks=10_000, tokens=40, chunk=4),
    Limits(blocks=20, mass=0.5),
    Limits(blocks=20, mass=0.999, temperature=100.0, tokens=50, chunk=2),
    Limits(blocks=20, mass=1.0),
]


@pytest.mark.parametrize("limits", LIMITS, ids=repr)
@pytest.mark.parametrize("blocks", [1, 2, 7, 8, 9, 37])
def test_a_selection_is_ascending_held_and_within_limits(row: Row, limits: Limits, blocks: int) -> None:
    stream = Stream(row.make())
    stream.append(blocks)
    memory = stream.index.view()
    for layer in range(LAYERS):
        checked(stream.selector.select(memory, query(layer), limits), memory, limits)


def test_an_empty_memory_gives_an_empty_selection(row: Row) -> None:
    stream = Stream(row.make())
    for limits in LIMITS:
        assert len(stream.selector.select(stream.index.view(), query(), limits)) == 0
    stream.append(5)
    nothing = stream.index.view(before_number=1)
    assert len(nothing) == 0
    assert len(stream.selector.select(nothing, query(), Limits(blocks=5))) == 0


def test_the_same_stream_and_question_give_the_same_selection(row: Row) -> None:
    results = []
    for _ in range(2):
        stream = Stream(row.make())
        stream.append(40)
        results += [stream.selector.select(stream.index.view(), query(), Limits(blocks=6)) for _ in range(2)]
    assert all(torch.equal(result.numbers, results[0].numbers) for result in results)
    assert all(torch.equal(result.scores, results[0].scores) for result in results)


def test_limits_that_cover_everything_select_everything(row: Row) -> None:
    blocks = min(row.takes_all, 21)
    stream = Stream(row.make())
    stream.append(blocks)
    memory = stream.index.view()
    for limits in (
        Limits(blocks=max(blocks, 1)),
        Limits(blocks=500, chunk=4),
        Limits(blocks=100, tokens=10_000),
    ):
        selected = stream.selector.select(memory, query(), limits)
        assert torch.equal(selected.numbers, memory.numbers)


def test_forgotten_blocks_are_never_selected(row: Row) -> None:
    stream = Stream(row.make())
    stream.append(30)
    stream.index.forget_before(4)
    stream.index.forget([9, 10, 11, 24, 30, 9999])
    stream.append(3)
    memory = stream.index.view()
    lost = {1, 2, 3, 9, 10, 11, 24, 30}
    assert set(memory.numbers.tolist()) == set(range(1, 34)) - lost
    for limits in LIMITS:
        checked(stream.selector.select(memory, query(), limits), memory, limits)
    stream.index.forget(range(1, 40))
    assert len(stream.selector.select(stream.index.view(), query(), Limits(blocks=9))) == 0


def test_a_view_before_a_number_gives_none_from_it_on(row: Row) -> None:
    stream = Stream(row.make())
    stream.append(30)
    for before in (2, 9, 17, 30, 31, 90):
        memory = stream.index.view(before_number=before)
        assert memory.numbers.tolist() == list(range(1, min(before, 31)))
        checked(stream.selector.select(memory, query(), Limits(blocks=5)), memory, Limits(blocks=5))


def test_a_snapshot_stays_as_it_was_while_another_thread_appends_and_forgets(row: Row) -> None:
    stream = Stream(row.make())
    stream.append(20)
    memory, limits = stream.index.view(), Limits(blocks=6)
    before = stream.selector.select(memory, query(), limits)
    keys = memory.keys(1, torch.arange(20))

    def go_on() -> None:
        for number in range(1, 20):
            stream.append(20)
            stream.index.forget([number, 3 * number])

    owner = threading.Thread(target=go_on)
    owner.start()
    while owner.is_alive():
        during = checked(stream.selector.select(memory, query(), limits), memory, limits)
        if stream.selector.name not in KEEP_STATE:
            assert torch.equal(during.numbers, before.numbers)
    owner.join()
    assert memory.numbers.tolist() == list(range(1, 21))
    assert torch.equal(memory.keys(1, torch.arange(20)), keys)


def test_ties_are_decided(row: Row) -> None:
    stream = Stream(row.make(), equal=True)
    stream.append(25)
    memory, limits = stream.index.view(), Limits(blocks=4)
    checked(stream.selector.select(memory, query(), limits), memory, limits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38, 0.0])
def test_broken_numbers_in_a_block_break_no_selection(row: Row, value: float) -> None:
    stream = Stream(row.make())
    stream.append(6)
    stream.append(3, fill=value)
    stream.append(12)
    memory = stream.index.view()
    for limits in LIMITS:
        checked(stream.selector.select(memory, query(), limits), memory, limits)


def test_what_a_strategy_reads_is_what_it_needs(row: Row) -> None:
    stream = Stream(row.make())
    stream.append(12)
    memory, full = stream.index.view(), query()
    internal = Query(layer=full.layer, internal=full.internal)
    external = Query(layer=full.layer, external=full.external)
    needed = {Reads.INTERNAL: internal, Reads.EXTERNAL: external, Reads.NOTHING: Query()}
    for reads, asked in needed.items():
        if stream.selector.reads in (reads, Reads.NOTHING):
            stream.selector.select(memory, asked, Limits(blocks=3))
        else:
            with pytest.raises(InvalidInput):
                stream.selector.select(memory, asked, Limits(blocks=3))


def test_every_strategy_has_a_row() -> None:
    assert {row.make().name for row in SELECTORS.values()} == set(STRATEGIES)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nothing", {}),
        ("rekv", {"metric": "l2"}),
        ("uniform", {"step": 2}),
        ("flash_vstream", {"temporal": 0}),
    ],
)
def test_unknown_names_and_settings_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        make_selector(name, **settings)
