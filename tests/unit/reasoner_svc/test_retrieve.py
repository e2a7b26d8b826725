"""The index and what limits mean, by small cases that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from reasoner_svc.retrieve.clusters import Clusters
from reasoner_svc.retrieve.flash_vstream import FlashVStream
from reasoner_svc.retrieve.index import MemoryIndex, representatives
from reasoner_svc.retrieve.query import layer_query
from reasoner_svc.retrieve.ranking import best, select_best
from reasoner_svc.retrieve.select import Limits, Seen
from reasoner_svc.retrieve.video_streaming import condense
from tandem.core.errors import InvalidInput
from tandem.core.timeline import TimeRange
from tests.unit.reasoner_svc.making import make_block


def scored(scores: list[float], tokens: list[int] | None = None):
    """A memory of one-layer blocks 1.. whose key is their score."""
    index = MemoryIndex(layers=1, key_dim=1, chunk_rows=4)
    for number, score in enumerate(scores, 1):
        size = tokens[number - 1] if tokens else 1
        index.append(number, TimeRange(number, number + 1), size, torch.tensor([[score]]))
    return index.view()


def chosen(scores: list[float], limits: Limits, tokens: list[int] | None = None) -> list[int]:
    memory = scored(scores, tokens)
    return select_best(memory, memory.dot(0, torch.ones(1)), limits, "score").numbers.tolist()


def test_representatives_are_means_of_raw_keys() -> None:
    block = make_block(3, tokens=5)
    means = representatives(block)
    assert means.shape == (2, 16)
    for layer in range(2):
        torch.testing.assert_close(means[layer], block.keys()[layer].mean(1).flatten())


def test_memory_grows_by_chunks_and_shrinks_when_they_are_forgotten() -> None:
    index = MemoryIndex(layers=2, key_dim=3, embedding_dim=2, chunk_rows=4)
    sizes = []
    for number in range(1, 13):
        index.append(number, TimeRange(0, 1), 1, torch.zeros(2, 3))
        sizes.append(index.nbytes)
    assert sizes == [sizes[0] * (1 + (i >= 4) + 2 * (i >= 8)) for i in range(12)], (
        "each as large as all before"
    )
    index.forget_before(8)
    assert (index.blocks, index.nbytes) == (5, 3 * sizes[0])
    index.forget([9, 10, 11, 12])
    assert (index.blocks, index.nbytes) == (1, sizes[0])
    index.append(13, TimeRange(0, 1), 1, torch.zeros(2, 3))
    assert index.view().numbers.tolist() == [8, 13]


def test_the_best_of_a_long_memory_are_those_of_a_full_sort() -> None:
    generator = torch.Generator().manual_seed(3)
    for total, values in ((5_000, 1 << 20), (5_000, 40), (129, 2), (4_096, 1), (70, 9)):
        scores = torch.randint(values, (total,), generator=generator).float()
        order = sorted(range(total), key=lambda place: (-float(scores[place]), -place))
        for count in (1, 7, 32, 69):
            assert best(scores, count).tolist() == order[:count]


def test_rows_of_a_patchy_memory_are_found() -> None:
    index = MemoryIndex(layers=1, key_dim=1, chunk_rows=4)
    for number in range(2, 30, 2):
        index.append(number, TimeRange(number, number + 2), number, torch.tensor([[float(number)]]))
    index.forget([4, 6, 8, 10, 22])
    memory = index.view(before_number=27)
    assert memory.numbers.tolist() == [2, 12, 14, 16, 18, 20, 24, 26]
    assert memory.tokens.tolist() == memory.start_us.tolist() == memory.numbers.tolist()
    assert memory.dot(0, torch.ones(1)).tolist() == memory.numbers.tolist()
    rows = memory.rows_of(torch.tensor([1, 2, 6, 18, 26, 28]))
    assert memory.numbers[rows].tolist() == [2, 18, 26]
    assert memory.keys(0, rows).flatten().tolist() == [2.0, 18.0, 26.0]


def test_blocks_come_in_order_and_in_shape() -> None:
    index = MemoryIndex(layers=1, key_dim=2)
    index.append(4, TimeRange(0, 1), 1, torch.zeros(1, 2))
    for number, keys in ((4, (1, 2)), (3, (1, 2)), (5, (2, 2)), (5, (1, 3))):
        with pytest.raises(InvalidInput):
            index.append(number, TimeRange(0, 1), 1, torch.zeros(keys))
    with pytest.raises(InvalidInput, match="embedding"):
        index.append(5, TimeRange(0, 1), 1, torch.zeros(1, 2), torch.zeros(3))
    assert index.blocks == 1


@pytest.mark.parametrize("span", [(2, 2), (3, 2), (-1, 2), (0, 8)])
def test_a_question_has_tokens(span: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput):
        layer_query(torch.zeros(4, 7, 8), 2, span)


def test_ties_go_to_the_newer() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 1.0])
    assert best(scores, 2).tolist() == [3, 2]
    assert best(scores, 4).tolist() == [3, 2, 1, 5]
    assert best(scores, 99).tolist() == [3, 2, 1, 5, 0, 4]
    assert best(scores, 0).tolist() == []


def test_chunks_are_chosen_by_their_average() -> None:
    scores = [9.0, 0.0, 5.0, 5.0, 1.0, 1.0, 6.0]
    assert chosen(scores, Limits(blocks=2, chunk=2)) == [7], "the last chunk is short"
    assert chosen(scores, Limits(blocks=4, chunk=2)) == [3, 4, 7]
    assert chosen(scores, Limits(blocks=5, chunk=2)) == [3, 4, 7]
    assert chosen(scores, Limits(blocks=7, chunk=2)) == [1, 2, 3, 4, 5, 6, 7]
    assert chosen(scores, Limits(blocks=1, chunk=4)) == [1]


def test_a_token_budget_skips_what_does_not_fit() -> None:
    scores, tokens = [4.0, 3.0, 2.0, 1.0], [10, 5, 6, 1]
    assert chosen(scores, Limits(blocks=4, tokens=21), tokens) == [1, 2, 3]
    assert chosen(scores, Limits(blocks=4, tokens=9), tokens) == [2, 4]
    assert chosen(scores, Limits(blocks=2, tokens=9), tokens) == [2]
    assert chosen(scores, Limits(blocks=4, tokens=4), [5, 5, 5, 5]) == []


def test_mass_takes_the_fewest_that_have_the_share() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    for mass, count in ((0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4)):
        assert chosen(scores, Limits(blocks=4, mass=mass)) == list(range(1, count + 1))
    assert chosen(scores, Limits(blocks=2, mass=0.96)) == [1, 2]


@pytest.mark.parametrize(
    "bad",
    [
        {"blocks": -1},
        {"tokens": -1},
        {"chunk": 0},
        {"mass": 1.1},
        {"mass": float("nan")},
        {"temperature": 0.0},
    ],
)
def test_impossible_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Limits(**{"blocks": 1, **bad})  # type: ignore[arg-type]


def test_clusters_keep_weights_and_medoids() -> None:
    clusters = Clusters.none(2, 2, 1)
    for number, value in enumerate((0.0, 10.0, 1.0, 0.4, 12.0), 1):
        clusters = clusters.added(number, torch.tensor([value]))
    groups = sorted(
        (float(weight), round(float(centroid), 4), numbers)
        for weight, centroid, numbers in zip(
            clusters.weights_N, clusters.centroids_NF[:, 0], clusters.numbers_NX.tolist(), strict=True
        )
    )
    assert groups == [(2.0, 11.0, [2, 5]), (3.0, 0.4667, [4, 1])]


def test_a_fixed_size_memory_is_of_fixed_size() -> None:
    selector, sizes = FlashVStream(temporal=5, abstract=2), []
    generator = torch.Generator().manual_seed(1)
    for number in range(1, 200):
        vector = torch.randn(6, generator=generator)
        selector.observe(Seen(number=number, start_us=number, tokens=1, descriptor=vector))
        sizes.append(selector.nbytes)
    assert len(set(sizes[5:])) == 1


def test_a_fixed_size_memory_keeps_one_block_of_each_scene() -> None:
    selector, index = FlashVStream(temporal=4, abstract=1), MemoryIndex(layers=1, key_dim=4)
    generator = torch.Generator().manual_seed(2)
    for number in range(1, 161):
        scene = (number - 1) // 40
        vector = torch.eye(4)[scene] * 10 + torch.randn(4, generator=generator) * 0.1
        index.append(number, TimeRange(number, number + 1), 1, vector[None])
        selector.observe(Seen(number=number, start_us=number, tokens=1, descriptor=vector))
    selected = selector.select(index.view(), None, Limits(blocks=20)).numbers.tolist()  # type: ignore[arg-type]
    assert {(number - 1) // 40 for number in selected} == {0, 1, 2, 3}


def test_a_clip_keeps_what_covers_it() -> None:
    clip = torch.tensor([0.0, 0.1, 0.2, 9.0, 9.1, 5.0])[None, :, None]
    held = torch.ones(1, 6, dtype=torch.bool)
    assert condense(clip, held, 3)[0].nonzero().flatten().tolist() == [0, 4, 5]
    held[0, 2:] = False
    assert condense(clip, held, 3)[0].tolist() == [True, True, False, False, False, False]
    assert int(condense(torch.zeros(1, 6, 2), torch.ones(1, 6, dtype=torch.bool), 4).sum()) == 4


def test_a_block_with_an_infinite_key_is_last_by_cosine_too() -> None:
    index = MemoryIndex(layers=1, key_dim=2)
    for number, keys in enumerate(([-1.0, 0.0], [float("inf"), 0.0], [-1.0, 1.0])):
        index.append(number, TimeRange(number, number + 1), 1, torch.tensor([keys]))
    scores = index.view().cosine(0, torch.tensor([1.0, 0.0]))
    assert scores.argsort(descending=True).tolist() == [2, 0, 1]


def test_the_first_blocks_of_a_large_model_cost_little() -> None:
    index = MemoryIndex(layers=28, key_dim=512)
    index.append(0, TimeRange(0, 1), 1, torch.zeros(28, 512))
    assert index.nbytes < 5_000_000
