"""Pure. The device side of streams, as the event loop sees it; `decode.engine` carries it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from tandem.core.ids import StreamId

if TYPE_CHECKING:
    from kv_transfer.block import Block
    from reasoner_svc.view.memory import Row


class Runs(Protocol):
    """The device side of streams; calls are carried out in order, later, on the engine's thread."""

    def open_run(self, run: int, stream: StreamId) -> None:
        """A stream was opened."""
        ...

    def feed(self, run: int, block: Block, done: Callable[[], None]) -> None:
        """The next visible block; `done` is called in the event loop when its bytes are no longer needed."""
        ...

    def forget_before(self, run: int, number: int) -> None:
        """Visual blocks below `number` left memory: they are in no later view."""
        ...

    def remember(self, run: int, rows: Sequence[Row]) -> None:
        """Blocks that lie on disk, oldest first: they may be recalled."""
        ...

    def forget(self, run: int, number: int) -> None:
        """A block is held nowhere any more: it is in no later view."""
        ...

    def close_run(self, run: int) -> None:
        """A stream was closed: free everything, end its questions."""
        ...
