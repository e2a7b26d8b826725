"""Pure. Flash-VStream's fixed-size memory, in the training-free form that whole blocks allow.

Flash-VStream (Zhang et al., arXiv 2406.08085, "STAR memory"; ICCV 2025: 2506.23825). The memory is of
constant size whatever the length of the stream, is updated with each block and does not know the question.
Four parts, each a number of blocks:

- *spatial*: the newest blocks;
- *temporal*: the medoids of a weighted k-means over the blocks' descriptors (`clusters.Clusters`);
- *abstract*: the medoids of fewer, coarser clusters;
- *retrieved*: of the largest temporal clusters, the block next nearest to the centroid.

The paper stores pooled features, so a part differs from another by its resolution; here every part holds
whole blocks and they differ by what they choose. `docs/retrieval.md` says what needs the trained checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from reasoner_svc.retrieve.clusters import NOBODY, Clusters
from reasoner_svc.retrieve.index_view import IndexView
from reasoner_svc.retrieve.ranking import select_in_order
from reasoner_svc.retrieve.select import Limits, Query, Reads, Seen, Selection
from tandem.core.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Blocks of each part. In the paper: 1 spatial, 25 temporal, 25 abstract (a token each), 3 retrieved."""

    spatial: int = 1
    temporal: int = 25
    abstract: int = 8
    retrieved: int = 3

    def __post_init__(self) -> None:
        if min(self.spatial, self.retrieved) < 0 or min(self.temporal, self.abstract) < 1:
            raise InvalidInput(f"sizes must be spatial, retrieved >= 0 and temporal, abstract >= 1: {self}")


@dataclass(frozen=True, slots=True)
class StarMemory:
    """The memory after some blocks; `remember` makes the next one."""

    sizes: Sizes
    newest: tuple[int, ...]
    """Numbers, newest first."""
    temporal: Clusters
    abstract: Clusters

    @property
    def nbytes(self) -> int:
        """Bytes held: constant once every part is full."""
        return self.temporal.nbytes + self.abstract.nbytes + 8 * len(self.newest)

    @staticmethod
    def empty(sizes: Sizes, descriptor_size: int) -> StarMemory:
        """Before the first block."""
        temporal = Clusters.none(sizes.temporal, 2, descriptor_size)
        return StarMemory(sizes, (), temporal, Clusters.none(sizes.abstract, 1, descriptor_size))

    def preferred(self) -> list[int]:
        """Numbers of all parts, each once: spatial, retrieved, abstract, temporal; heavy clusters first."""
        by_weight = self.temporal.heaviest_first()
        key_blocks = self.temporal.numbers_NX[by_weight[: self.sizes.retrieved], 1].tolist()
        coarse = self.abstract.numbers_NX[self.abstract.heaviest_first(), 0].tolist()
        fine = self.temporal.numbers_NX[by_weight, 0].tolist()
        return [
            number
            for number in dict.fromkeys((*self.newest, *key_blocks, *coarse, *fine))
            if number != NOBODY
        ]


def remember(memory: StarMemory, seen: Seen) -> StarMemory:
    """The memory with one more block."""
    return replace(
        memory,
        newest=(seen.number, *memory.newest)[: memory.sizes.spatial],
        temporal=memory.temporal.added(seen.number, seen.descriptor),
        abstract=memory.abstract.added(seen.number, seen.descriptor),
    )


class FlashVStream:
    """The memory's blocks, whatever the question."""

    name = "flash_vstream"
    reads = Reads.NOTHING

    def __init__(
        self, *, spatial: int = 1, temporal: int = 25, abstract: int = 8, retrieved: int = 3
    ) -> None:
        self._sizes = Sizes(spatial=spatial, temporal=temporal, abstract=abstract, retrieved=retrieved)
        # Replaced in one step: another thread selects from the memory of one moment.
        self._memory: StarMemory | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its state."""
        return self._memory.nbytes if self._memory else 0

    def observe(self, seen: Seen) -> None:
        """See `select.Selector`."""
        memory = self._memory or StarMemory.empty(self._sizes, len(seen.descriptor))
        self._memory = remember(memory, seen)

    def select(self, memory: IndexView, query: Query, limits: Limits) -> Selection:
        """See `select.Selector`. `mass` and `chunk` mean nothing here; scores fall with the preference."""
        preferred = self._memory.preferred() if self._memory else []
        rows = memory.rows_of(torch.tensor(preferred, dtype=torch.int64))
        scores = torch.arange(len(rows), 0, -1) / max(len(rows), 1)
        return select_in_order(memory, rows, scores, limits, "fixed-size memory")
