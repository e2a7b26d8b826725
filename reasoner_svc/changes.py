"""Shell. Who hears that a stream changed. Knows names only; the listener looks up what it wants to tell."""

from __future__ import annotations

import asyncio

from tandem.core.ids import StreamId


class Subscription:
    """Streams that changed since the last look; bounded by the number of streams."""

    def __init__(self) -> None:
        self._dirty: dict[StreamId, None] = {}
        self._wake = asyncio.Event()

    def mark(self, stream: StreamId) -> None:
        """This stream changed."""
        self._dirty[stream] = None
        self._wake.set()

    async def changed(self) -> list[StreamId]:
        """Wait until something changed; each stream is named once, however often it changed."""
        await self._wake.wait()
        self._wake.clear()
        dirty, self._dirty = list(self._dirty), {}
        return dirty


class Changes:
    """All subscriptions. Event loop only."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def subscribe(self) -> Subscription:
        """Hear of changes from now on, until `unsubscribe`."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Hear no more."""
        self._subscriptions.discard(subscription)

    def mark(self, stream: StreamId) -> None:
        """This stream changed: tell all subscribers."""
        for subscription in self._subscriptions:
            subscription.mark(stream)
