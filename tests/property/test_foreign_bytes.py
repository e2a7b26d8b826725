"""Bytes from elsewhere, changed at random: each parser takes or refuses them, and does not break, hang, grow.

The long form (`pytest -m slow`) has 10,000 changed messages for each parser; `scripts/fuzz` goes on for as
long as one likes, guided by the parser's own branches.
"""

from __future__ import annotations

import contextlib
import gc
import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.foreign_bytes import PARSERS, Parser

MANY = 10_000
ONE_CPU_S = 5.0
"""Of a processor, for one message: by the clock on the wall a busy machine would fail."""
ONE_PEAK_BYTES = 96 << 20
"""That one message may make a parser allocate: a few frames of the largest picture that is let in."""
GROWTH_BYTES = 4 << 20
"""That may be left of all of them: caches, the strategies' own."""
_NUMBERS = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xc1",
]


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A valid message with up to six changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 16))
        match draw(st.integers(0, 6)):
            case 0:
                if at < len(data):
                    data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = draw(st.binary(max_size=16))
            case 3:
                del data[at:]
            case 4:
                data[at : at + length] = draw(st.sampled_from(_NUMBERS))
            case 5:
                data[at:at] = data[: length * 4]
            case _:
                data[at : at + length] = draw(st.binary(max_size=16))
    return bytes(data)


def takes_or_refuses(parser: Parser, data: bytes) -> None:
    began_s = time.thread_time()
    with contextlib.suppress(*parser.refuses):
        parser.parse(data)
    assert time.thread_time() - began_s < ONE_CPU_S


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_valid_is_taken(name: str) -> None:
    parser = PARSERS[name]
    for seed in parser.seeds():
        assert parser.seal(seed) == seed, "the seal is that of the writer"
        if name != "request to drain":  # its proof is made at another time
            parser.parse(seed)


@pytest.mark.parametrize("name", PARSERS)
def test_changed_messages_are_taken_or_refused(name: str) -> None:
    fuzz(name, 10 if PARSERS[name].is_slow else 100)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PARSERS)
def test_ten_thousand_changed_messages_are_taken_or_refused(name: str) -> None:
    fuzz(name, 200)  # what is made once, and kept
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        fuzz(name, MANY)
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < GROWTH_BYTES
    assert peak - before < ONE_PEAK_BYTES


def fuzz(name: str, examples: int) -> None:
    parser = PARSERS[name]
    seeds = parser.seeds()

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=changed(seeds), is_sealed=st.booleans())
    def one(data: bytes, is_sealed: bool) -> None:
        takes_or_refuses(parser, parser.seal(data) if is_sealed else data)

    one()
