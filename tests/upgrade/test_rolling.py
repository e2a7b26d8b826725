"""Every process is replaced while streams play and questions are open: none is lost, none answered twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.fleet import Fleet, Process, fleet
from tests.upgrade.former import former_tree
from tests.upgrade.load import Load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REASONERS = ("reasoner-0", "reasoner-1")
ENCODERS = ("encoder-0", "encoder-1")
ORCHESTRATOR = ("orchestrator",)
ORDERS = {
    "as documented": (*REASONERS, *ENCODERS, *ORCHESTRATOR),
    "the other way round": (*ORCHESTRATOR, *ENCODERS, *REASONERS),
}
"""A chart's StatefulSets are replaced side by side, so that either may be the case."""


@asynccontextmanager
async def running(folder: Path, tree: Path | None) -> AsyncIterator[Fleet]:
    """A fleet of two services a role, all of one release."""
    async with fleet(folder, tree=tree) as found:
        for name in (*REASONERS, *ENCODERS):
            await found.add(name, disk=False)
        await found.ready(*REASONERS, *ENCODERS)
        yield found


async def replace(found: Fleet, name: str, tree: Path | None) -> None:
    """As a StatefulSet does: the process is told to leave, and the next one has its name."""
    member = found.members[name]
    assert isinstance(member, Process)
    boot = (await found.boots()).get(name, "")
    member.send(signal.SIGTERM)
    assert await member.ended(60) == 0
    member.tree = tree
    await member.start()
    if name in ORCHESTRATOR:
        await found.ready(*REASONERS, *ENCODERS)
        return
    async with asyncio.timeout(120):
        while (await found.boots()).get(name, "") in {"", boot}:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)
    await found.ready(name)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", ["up", "down", "same"])
async def test_all_services_are_replaced_one_after_the_other(tmp_path: Path, way: str, order: str) -> None:
    """From the release before to this one, back, and of this one."""
    other = None if way == "same" else former_tree(tmp_path / "former")
    before, after = (other, None) if way == "up" else (None, other)
    async with running(tmp_path, before) as found:
        # An orchestrator of the release before ends questions of others with an error when it stops.
        load = Load(found, 4, encoded=2, outside=way != "up")
        try:
            await load.start()
            for name in ORDERS[order]:
                await replace(found, name, after)
                await load.go_on()
            print(f"{way}, {order}: {await load.check()}")
        finally:
            await load.close()
