"""Shell. The disk tier, with what leaves it and what it finds damaged counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from kv_transfer.block import BlockCorrupt
from kv_transfer.metrics import CHECKSUMS
from reasoner_svc.store.disk.room import Left
from reasoner_svc.store.disk.slots import DiskSlot
from reasoner_svc.store.disk.store import DiskStore
from tandem.core.blocks import BlockHeader
from tandem.core.ids import StreamId
from tandem.core.meters import Meters


class MeasuredDisk(DiskStore):
    """A disk store that counts."""

    def __init__(self, *args: Any, meters: Meters, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._meters = meters
        self._left: Counter[str] = Counter()

    @property
    def left(self) -> dict[str, int]:
        """Blocks that left the disk by reason; a closed stream that went as a whole counts as one."""
        return dict.fromkeys(("budget", "quota", "age"), 0) | dict(self._left)

    def read(self, slot: DiskSlot, header: BlockHeader, *args: Any, **settings: Any) -> Tensor:
        """See `DiskStore.read`."""
        try:
            return super().read(slot, header, *args, **settings)
        except BlockCorrupt as error:
            self._meters.count(CHECKSUMS, len(error.layers), tier="disk")
            raise

    def make_room(self, length: int, stream: StreamId | None = None) -> list[Left]:
        """See `DiskStore.make_room`."""
        left = super().make_room(length, stream)
        for what in left:
            self._left["quota" if "quota" in what.reason else "budget"] += _blocks(what)
        return left

    def expire(self, now_wall_s: float) -> list[Left]:
        """See `DiskStore.expire`."""
        left = super().expire(now_wall_s)
        self._left["age"] += sum(map(_blocks, left))
        return left


def _blocks(left: Left) -> int:
    return 1 if left.dropped is None else _count(left.dropped.numbers)


def _count(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(end - first for first, end in ranges)
