# ruff: noqa: N803, N806, N815 (shape suffixes)
"""Pure. Weighted k-means over a stream of vectors in constant memory, one vector at a time.

Kept are at most `limit` centroids with their weights. With a new vector there is one more point than
clusters, and any division of n + 1 points into n clusters joins exactly one pair: joining the pair that adds
least to the sum of squares (Ward) *is* the best weighted k-means step. So there are no iterations, no
starting points and no chance. Shapes: N clusters, X examples of each, F dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOBODY = -1
"""Number of an example that is missing."""
LARGEST = 1e15
"""No component of a vector counts for more: squared distances must stay finite."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of the blocks seen so far; never changed, `added` returns new ones."""

    limit: int
    centroids_NF: Tensor
    weights_N: Tensor
    """float64: blocks that each stands for."""
    numbers_NX: Tensor
    """int64: the blocks nearest to the centroid, the medoid first; `NOBODY` where there are fewer."""
    examples_NXF: Tensor
    """Their descriptors."""
    gaps_NN: Tensor
    """Squared distances of the centroids."""

    @staticmethod
    def none(limit: int, examples: int, size: int) -> Clusters:
        """At most `limit` clusters of vectors of `size`, each with that many examples."""
        assert limit >= 1, limit
        assert examples >= 1, examples
        return Clusters(
            limit,
            torch.empty(0, size),
            torch.empty(0, dtype=torch.float64),
            torch.empty(0, examples, dtype=torch.int64),
            torch.empty(0, examples, size),
            torch.empty(0, 0),
        )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = (self.centroids_NF, self.weights_N, self.numbers_NX, self.examples_NXF, self.gaps_NN)
        return sum(tensor.nbytes for tensor in tensors)

    def heaviest_first(self) -> Tensor:
        """Indices int64 [N] of the clusters by weight; of equal ones the least recently changed first."""
        return self.weights_N.sort(descending=True, stable=True).indices

    def added(self, number: int, vector_F: Tensor) -> Clusters:
        """With one more block; what is not a number in its vector counts as zero."""
        point = vector_F.to("cpu", torch.float32).nan_to_num(0.0).clamp(-LARGEST, LARGEST)
        examples = self.numbers_NX.shape[1]
        numbers = torch.full((1, examples), NOBODY)
        numbers[0, 0] = number
        vectors = torch.zeros(1, examples, len(point))
        vectors[0, 0] = point
        grown = self.with_cluster(point, 1.0, numbers, vectors)
        return grown if len(grown.weights_N) <= self.limit else _nearest_joined(grown)

    def with_cluster(
        self, centroid_F: Tensor, weight: float, numbers_1X: Tensor, examples_1XF: Tensor
    ) -> Clusters:
        """With one more cluster, whatever the limit."""
        gaps_N = (self.centroids_NF - centroid_F).square().sum(1)
        gaps = torch.zeros(len(gaps_N) + 1, len(gaps_N) + 1)
        gaps[:-1, :-1], gaps[-1, :-1], gaps[:-1, -1] = self.gaps_NN, gaps_N, gaps_N
        return Clusters(
            self.limit,
            torch.cat((self.centroids_NF, centroid_F[None])),
            torch.cat((self.weights_N, torch.tensor([weight], dtype=torch.float64))),
            torch.cat((self.numbers_NX, numbers_1X)),
            torch.cat((self.examples_NXF, examples_1XF)),
            gaps,
        )


def _nearest_joined(clusters: Clusters) -> Clusters:
    """One cluster fewer, at the least cost in squared distances."""
    weights = clusters.weights_N
    cost_NN = clusters.gaps_NN * (weights[:, None] * weights) / (weights[:, None] + weights)
    cost_NN.fill_diagonal_(torch.inf)
    pair = torch.tensor(divmod(int(cost_NN.argmin()), len(weights))).sort().values
    weight = weights[pair].sum()
    shares = (weights[pair] / weight).float()
    centroid = shares @ clusters.centroids_NF[pair]
    numbers, examples = clusters.numbers_NX[pair].flatten(), clusters.examples_NXF[pair].flatten(0, 1)
    away = (examples - centroid).square().sum(1).masked_fill(numbers == NOBODY, torch.inf)
    nearest = away.sort(stable=True).indices[: clusters.numbers_NX.shape[1]]
    others = torch.ones(len(weights), dtype=torch.bool)
    others[pair] = False
    rest = Clusters(
        clusters.limit,
        clusters.centroids_NF[others],
        weights[others],
        clusters.numbers_NX[others],
        clusters.examples_NXF[others],
        clusters.gaps_NN[others][:, others],
    )
    return rest.with_cluster(centroid, float(weight), numbers[nearest][None], examples[nearest][None])
