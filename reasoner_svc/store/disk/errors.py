"""Pure. What the disk tier refuses with, besides the errors everybody has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.core.errors import LimitExceeded, Unavailable

if TYPE_CHECKING:
    from reasoner_svc.store.disk.slots import DiskSlot


class DiskFull(LimitExceeded):
    """The disk, its budget or a quota takes no more; `stored` are the slots of the blocks that did get in.

    They are the first of the batch, in order. What had been written of the next one was cut off again.
    """

    def __init__(self, message: str, stored: tuple[DiskSlot, ...] = ()) -> None:
        super().__init__(message)
        self.stored = stored


class SyncFailed(Unavailable):
    """The system could not bring written bytes to stable storage.

    The blocks `forgotten` are no longer held: the kernel may have dropped their bytes, and asking again would
    report success. Whoever still has them may append them anew.
    """

    def __init__(self, message: str, forgotten: tuple[int, ...]) -> None:
        super().__init__(message)
        self.forgotten = forgotten


class StreamHeld(Unavailable):
    """Another process has the stream's directory open."""
