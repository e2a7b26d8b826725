"""The device pool: fixed memory, least recently used first, never a page that is being read."""

from __future__ import annotations

import torch

from reasoner_svc.store.tiers.pool import LayerPool, PageKey

PAGE = 256


def page(number: int) -> torch.Tensor:
    return torch.full((PAGE,), number, dtype=torch.uint8)


def key(number: int, run: int = 1) -> PageKey:
    return PageKey(run, number, 0)


def test_bytes_come_back_and_memory_stays() -> None:
    pool = LayerPool(4 * PAGE)
    before = pool.nbytes
    for number in range(10):
        assert pool.put(key(number), page(number)) is not None
    assert (pool.nbytes, pool.pages) == (before, 4)
    for number in range(6, 10):
        found = pool.get(key(number))
        assert found is not None
        assert bool((found == number).all())
    assert pool.get(key(0)) is None
    assert (pool.hits, pool.misses) == (4, 1)


def test_the_least_recently_used_leaves() -> None:
    pool = LayerPool(2 * PAGE)
    pool.put(key(1), page(1))
    pool.put(key(2), page(2))
    pool.get(key(1))
    pool.put(key(3), page(3))
    assert pool.get(key(2)) is None
    assert pool.get(key(1)) is not None


def test_what_is_kept_is_not_overwritten() -> None:
    pool = LayerPool(2 * PAGE)
    kept = [key(1), key(2)]
    for number in (1, 2):
        pool.put(key(number), page(number))
    assert pool.put(key(3), page(3), keep=kept) is None
    for number in (1, 2):
        found = pool.get(key(number))
        assert found is not None
        assert bool((found == number).all())


def test_a_closed_stream_leaves_nothing() -> None:
    pool = LayerPool(4 * PAGE)
    pool.put(key(1), page(1))
    pool.put(key(1, run=2), page(2))
    pool.forget_run(1)
    assert pool.get(key(1)) is None
    pool.forget(2, {1})
    assert pool.pages == 0
