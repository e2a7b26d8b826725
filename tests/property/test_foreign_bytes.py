"""Bytes from elsewhere, changed at random: each parser takes or refuses them, and does not break, hang, grow.

The long form (`pytest -m slow`) has 10,000 changed messages for each parser, measures what each of 2,000
allocates and looks for what is left of all; `scripts/fuzz` goes on for as long as one likes, guided by the
parser's own branches. With `-s` both say how deep the changed messages got.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.journal import MAX_READ_BYTES
from tandem.core.process_memory import resident_bytes
from tests.property.foreign.change import change
from tests.property.foreign.files import catalogue, journal
from tests.property.foreign.outcome import Depth, blind_sites, site_of
from tests.property.foreign.parser import Parser
from tests.property.foreign_bytes import PARSERS

MANY, FEW, FEWER = 10_000, 100, 25
MEASURED = 2_000
"""Of the many, whose allocations are looked at."""
BATCH = 25
"""Messages that one choice of hypothesis stands for: it takes longer to choose than most parsers to read."""
GROWTH_BYTES = 4 << 20
"""That may be left of all of them: caches, hypothesis' own."""
RESIDENT_BYTES = 48 << 20
"""The same as the kernel counts it, with what is not Python's: pieces of the largest messages too."""

_DEEP = b"[" * 100_000
BROKE = [
    ("address of a Gloo listener", b"9" * 5000 + b" 127.0.0.1"),
    (
        "told by a reasoner",
        bytes.fromhex("0a240a0467617465100218a0c21e20012805320b1080808080f8ffffffff013801400152016e"),
    ),
    ("catalogue about itself", bytes.fromhex("cfffffffffffffffff0b95c47cac8d4fc2")),
    ("catalogue", catalogue().replace(b"CREATE TABLE blocks (n", b"CREATE TABLE\xffblocks (\0")),
    ("catalogue", catalogue().replace(b"number INTEGER PRIMARY KEY", b"number INTEGER            ")),
    ("journal", b'\n{"version": ' + _DEEP + b"}\n"),
    ("journal", b"\n" + b" " * MAX_READ_BYTES + journal()),
    ("journal", journal().replace(b'"max_lag_ms": 0', b'"max_lag_ms": true')),
    ("journal", journal().replace(b'"media_kind": 1', b'"media_kind": 4294967296')),
    ("journal", journal().replace(b"[[0, 5, ", b"[[1e999, 5, ")),
    ("layout of a checkpoint", b'{"fps": [1.0]}'),
    (
        "layout of a checkpoint",
        b'{"layout": "timestamped", "sink": 1, "unit_prefix": [], "unit_suffix": {}, "question": 2}',
    ),
    ("scores of heads", b'{"scores": ' + _DEEP),
    ("spec of a service on Ray", b'{"arguments": ' + _DEEP),
    ("schedule", b'{"kind": "stream", "stream": "s", "start_s": 0, "end_s": ' + b"9" * 400 + b"}"),
    ("file of tokens", b"[[token]]\ntenant = " + b"9" * 5000),
    ("file of quotas", b"[default]\nstreams = " + b"9" * 400),
    ("file of quotas", b"[default]\nstreams = " + _DEEP),
    ("event of a watch", b'{"type": "ERROR", "object": {"code": 1e999}}'),
    ("event of a watch", b'{"type": "ADDED", "object": ' + _DEEP),
]
"""Found by the tests below and by atheris, and mended."""


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_valid_is_taken(name: str) -> None:
    parser = PARSERS[name]
    for seed in parser.seeds():
        assert parser.seal(seed) == seed, "the seal is that of the writer"
        assert parser.wrap(parser.unwrap(seed)) == seed
        parser.parse(seed)


@pytest.mark.parametrize("name", PARSERS)
def test_changed_messages_are_taken_or_refused(name: str) -> None:
    parser = PARSERS[name]
    depth = fuzz(parser, FEWER if parser.is_slow else FEW)
    print(f"{name}: {depth}")
    assert depth.share >= parser.least_deep / 2, f"{name}: {depth}: most are turned away at the door"


@pytest.mark.parametrize(("name", "data"), BROKE, ids=[name for name, _ in BROKE])
def test_what_broke_a_parser_is_refused(name: str, data: bytes) -> None:
    assert timed(PARSERS[name], data)


@pytest.fixture
def unheard() -> Iterator[None]:
    """Nobody keeps what is logged: pytest would, with the message that was refused."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.usefixtures("unheard")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PARSERS)
def test_ten_thousand_changed_messages_are_taken_or_refused(name: str) -> None:
    parser = PARSERS[name]
    fuzz(parser, FEW)  # what is made once, and kept
    gc.collect()
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    resident, began_s = resident_bytes(), time.thread_time()
    depth = fuzz(parser, MANY)
    took_s = time.thread_time() - began_s
    gc.collect()
    more_bytes = resident_bytes() - resident
    print(f"{name}: {depth}, {took_s:.0f} s, {more_bytes / 2**20:.1f} MiB more")
    assert depth.share >= parser.least_deep, f"{name}: {depth}: most are turned away at the door"
    assert more_bytes < RESIDENT_BYTES
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (fds, threads)
    check_allocations(parser)


def check_allocations(parser: Parser) -> None:
    """Of each message by itself, and of all together: as Python counts, which takes several times as long."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fuzz(parser, MEASURED, measured)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < GROWTH_BYTES


def timed(parser: Parser, data: bytes) -> tuple[tuple[str, int], ...]:
    """Where it was refused, in time."""
    began_s = time.thread_time()
    site = site_of(parser, data)
    assert time.thread_time() - began_s < parser.cpu_s
    return site


def measured(parser: Parser, data: bytes) -> tuple[tuple[str, int], ...]:
    """The same, and how much it allocated on the way."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    site = timed(parser, data)
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < parser.peak_bytes + 64 * len(data)
    return site


def fuzz(
    parser: Parser, messages: int, look: Callable[[Parser, bytes], tuple[tuple[str, int], ...]] = timed
) -> Depth:
    """A number stands for changed messages: hypothesis chooses it, and names it when one of them is bad."""
    seeds = parser.seeds() + parser.more()
    depth = Depth(blind_sites(parser, random.Random(0)))

    @settings(
        phases=[Phase.generate],  # a smaller number is no simpler message
        max_examples=messages // BATCH,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(number=st.integers(0, 2**64 - 1))
    def some(number: int) -> None:
        for part in range(BATCH):
            rng = random.Random(number * BATCH + part)
            data = change(parser, rng, rng.choice(seeds))
            try:
                depth.count(look(parser, data))
            except BaseException:
                print(f"broken by {data[:2000].hex()}")
                raise

    some()
    return depth
