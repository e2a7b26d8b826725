"""Who hears of changes."""

from __future__ import annotations

import asyncio

from reasoner_svc.changes import Changes
from tandem.core.ids import StreamId


async def test_a_subscriber_hears_of_each_stream_once() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    for stream in ("a", "b", "a"):
        changes.mark(StreamId(stream))
    assert await subscription.changed() == ["a", "b"]
    waiting = asyncio.create_task(subscription.changed())
    await asyncio.sleep(0)
    changes.mark(StreamId("c"))
    assert await waiting == ["c"]
    changes.unsubscribe(subscription)
    changes.mark(StreamId("d"))
    waiting = asyncio.create_task(subscription.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
