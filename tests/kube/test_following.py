"""A watch that fails for good: it is tried again, not too often, and never looks current meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.backends import kubernetes_watch
from orchestrator.backends.kubernetes_pods import Pod, selector
from orchestrator.backends.kubernetes_watch import RETRY_AFTER_MAX_S, PodWatch, after
from tandem.core.errors import LimitExceeded
from tests.kube.release import RELEASE, Release, release, until


@asynccontextmanager
async def following(
    found: Release, changed: Callable[[Pod | None], None] = lambda _: None, chance: float = 0.0
) -> AsyncIterator[PodWatch]:
    watch = PodWatch(found.api, selector(RELEASE), changed, chance=lambda: chance)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("fault", [{"expire_watch_after": 0}, {"end_watch": True}])
async def test_a_server_whose_watches_all_end_at_once_is_not_hammered(
    fault: dict[str, object], tmp_path: Path
) -> None:
    async with release(tmp_path) as found:
        found.install()
        await until(lambda: len(found.names()) == 2)
        found.kube.bookmark_s = 0.01
        found.kube.faults.add(path="watch=", times=-1, **fault)
        before = len(found.kube.seen)
        async with following(found, chance=1.0) as watch:
            await asyncio.sleep(0.6)
            assert len(found.kube.seen) - before <= 10
            assert not watch.is_current
            assert watch.trouble


async def test_a_mistake_in_what_is_made_of_a_change_ends_nothing(tmp_path: Path) -> None:
    """A task that ended in silence would leave a table behind that looks current for ever."""
    mistakes = 2

    def changed(pod: Pod | None) -> None:
        nonlocal mistakes
        if pod is not None and mistakes:
            mistakes -= 1
            raise KeyError(pod.name)

    async with release(tmp_path) as found:
        found.install()
        await until(lambda: len(found.names()) == 2)
        async with following(found, changed) as watch:
            await until(lambda: len(watch.table.pods) == 2)
            for count in (2, 3, 4):
                found.set_replicas("encoder", count)
                await until(lambda count=count: len(watch.table.pods) == count + 1 and watch.is_current)  # type: ignore[misc]
            assert mistakes == 0


async def test_a_server_that_was_restored_is_believed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are lower than those that were seen before, and stay so."""
    monkeypatch.setattr(kubernetes_watch, "OLD_LISTS", 1)
    async with release(tmp_path) as found:
        found.install()
        await until(lambda: len(found.names()) == 2)
        found.kube.faults.add(path="watch=", drop_watch_after=0, times=1)
        async with following(found) as watch:
            await until(lambda: len(watch.table.pods) == 2)
            watch.table.version = 10_000_000
            found.set_replicas("encoder", 3)
            await until(lambda: len(watch.table.pods) == 4 and watch.is_current)
            assert watch.table.version < 10_000_000


def test_nobody_has_it_wait_for_a_day() -> None:
    assert after(LimitExceeded("later", retry_after_s=86_400.0), 1, 0.0).wait_s == RETRY_AFTER_MAX_S
