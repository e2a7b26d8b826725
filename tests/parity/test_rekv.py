"""Tandem's parts, put together as ReKV, retrieve the blocks that ReKV retrieves and answer as it does."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from kv_transfer.block import Block, pack_block
from reasoner_svc.retrieve.index import MemoryIndex, representatives
from reasoner_svc.retrieve.query import layer_query
from reasoner_svc.retrieve.select import Limits, Query
from reasoner_svc.retrieve.strategies import make_selector
from tandem.core.blocks import BlockGeometry, BlockKey, BlockKind
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tandem.vlm.view import Part, View
from tests.parity.literal_rekv import LiteralRekv
from tests.parity.split_pipeline import RELATIVE_TOLERANCE, relative_error, text_positions

INIT, QUESTION, REST = 5, 4, 3


@dataclass
class TandemRekv:
    """One stream: encoded through views, kept as blocks, indexed, asked in one pass."""

    model: object
    local: int
    sink: tuple[Tensor, Tensor] | None = None
    blocks: dict[int, Block] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layout = self.model.layout
        self.recent, self.initial = self.model.new_segment(), self.model.new_segment()
        self.index = MemoryIndex(
            layers=layout.layers, key_dim=layout.kv_heads * layout.head_dim, chunk_rows=4
        )

    def encode(self, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Raw keys and values of new tokens that see the initial ones and the window."""
        first, tokens = self.recent.end, len(embeds)
        positions = text_positions(first, tokens)
        left = min(INIT, max(0, first - self.local)) - self.initial.end
        if left > 0:  # they left the window: kept unrotated, all at the origin
            now = slice(self.initial.end, self.initial.end + left)
            keys, values = self.sink
            self.initial.append_raw(
                keys[:, :, now], values[:, :, now], torch.zeros(3, left, dtype=torch.int64)
            )
        parts = ()
        if self.initial.length:
            parts = (Part(segment=self.initial, base=positions - (self.local - 1)),)
        visible = (first + torch.arange(tokens) - self.local + 1).clamp_min(0)
        view = View(parts=parts, tail=Part(segment=self.recent, first_visible=visible))
        run = self.model.forward(embeds, positions, view, capture=True)
        return run.raw_keys, run.raw_values

    def open(self, embeds: Tensor) -> None:
        self.sink = self.encode(embeds)

    def append(self, embeds: Tensor) -> None:
        number = len(self.blocks) + 1
        keys, values = self.encode(embeds)
        block = pack_block(
            BlockKey(StreamId("cam"), number),
            BlockKind.VISUAL,
            BlockGeometry(text_before=0, grid_t=1, grid_h=1, grid_w=len(embeds), text_after=0),
            self.model.layout,
            self.model.fingerprint,
            TimeRange(number, number + 1),
            keys,
            values,
        )
        self.blocks[number] = block
        self.index.append(number, block.header.time, len(embeds), representatives(block))

    def ask(self, question: Tensor, rest: Tensor, limits: Limits) -> tuple[list[list[int]], Tensor]:
        """Block indices (from 0) of each layer, and logits of the last of [question | rest]."""
        memory, selector = self.index.view(), make_selector("rekv")
        context, picks = self.model.new_layered_segment(), []
        # Where the question stands does not matter, only that what it sees ends right before it.
        start = INIT + sum(block.header.tokens for block in self.blocks.values())

        def retrieve(layer: int, queries: Tensor) -> None:
            internal = layer_query(queries, self.model.layout.kv_heads, (0, QUESTION))
            chosen = selector.select(memory, Query(layer=layer, internal=internal), limits).numbers.tolist()
            picks.append([number - 1 for number in chosen])
            keys = [self.sink[0][layer], *(self.blocks[n].keys()[layer] for n in chosen)]
            values = [self.sink[1][layer], *(self.blocks[n].values()[layer] for n in chosen)]
            tokens = sum(key.shape[1] for key in keys)
            context.write(layer, keys, values, text_positions(start - tokens, tokens))

        view = View(
            parts=(Part(segment=context),),
            tail=Part(segment=self.model.new_segment()),
            before_layer=retrieve,
        )
        prompt = torch.cat((question, rest))
        run = self.model.forward(prompt, text_positions(start, len(prompt)), view)
        return picks, self.model.logits(run.hidden[-1])


def draw(model, tokens: int, seed: int) -> Tensor:
    hidden = model.hf.config.text_config.hidden_size
    return torch.randn(tokens, hidden, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["auto", "reference"])
def model(request):
    return load_model("dummy:tiny", backend=request.param)


@pytest.fixture(scope="module")
def stock():
    return stock_model("dummy:tiny")


@torch.no_grad()
def both(model, stock, lengths: list[int], local: int):
    ours, theirs = TandemRekv(model, local), LiteralRekv(stock, INIT, local)
    prompt = draw(model, INIT, 100)
    ours.open(prompt)
    theirs.encode(prompt, as_block=False)
    for seed, length in enumerate(lengths):
        embeds = draw(model, length, seed)
        ours.append(embeds)
        theirs.encode(embeds)
    return ours, theirs


@torch.no_grad()
def check(model, ours, theirs, k: int, chunk: int) -> list[list[int]]:
    question, rest = draw(model, QUESTION, 200), draw(model, REST, 201)
    picks, logits = ours.ask(question, rest, Limits(blocks=k, chunk=chunk))
    their_picks, their_logits = theirs.ask(question, rest, k, chunk)
    assert picks == their_picks
    assert relative_error(logits, their_logits) < RELATIVE_TOLERANCE
    return picks


@pytest.mark.parametrize(("local", "size"), [(6, 3), (9, 4), (14, 1), (8, 4)])
def test_the_same_blocks_in_every_layer(model, stock, local, size):
    ours, theirs = both(model, stock, [size] * (28 // size), local)
    seen = set()
    for k, chunk in [(1, 1), (2, 1), (3, 1), (5, 2), (4, 2), (6, 3)]:
        seen.add(str(check(model, ours, theirs, k, chunk)))
    assert len(seen) > 3, "a test that always picks the same shows nothing"


def test_encoded_keys_are_the_same(model, stock):
    ours, theirs = both(model, stock, [4] * 8, 9)
    for number, block in ours.blocks.items():
        tokens = theirs.blocks[number - 1]
        for layer in range(model.layout.layers):
            literal = torch.stack([theirs.keys[layer][token] for token in tokens], 1)
            assert relative_error(block.keys()[layer], literal) < 1e-5


@torch.no_grad()
def test_the_layers_differ_in_what_they_retrieve(model, stock):
    ours, _ = both(model, stock, [3] * 12, 8)
    picks, _ = ours.ask(draw(model, QUESTION, 200), draw(model, REST, 201), Limits(blocks=2))
    assert len({tuple(layer) for layer in picks}) > 1


@pytest.mark.parametrize("overflow", range(-1, INIT + 2))
def test_a_window_that_has_just_overflowed(model, stock, overflow):
    """By 1 to INIT - 1 tokens the original raises AssertionError."""
    lengths = [4] * 5
    ours, theirs = both(model, stock, lengths, INIT + sum(lengths) - overflow)
    check(model, ours, theirs, 2, 1)


@pytest.mark.parametrize(("k", "chunk"), [(7, 1), (8, 1), (200, 1), (200, 3), (7, 2)])
def test_k_above_what_is_cached(model, stock, k, chunk):
    """Above what its allocator holds the original raises."""
    ours, theirs = both(model, stock, [3] * 7, 9)
    assert check(model, ours, theirs, k, chunk) == [list(range(7))] * model.layout.layers


@pytest.mark.parametrize("lengths", [[1, 5, 2, 7, 3, 4], [6, 1, 1, 1, 9], [2]])
@pytest.mark.parametrize(("k", "chunk"), [(2, 1), (3, 2), (5, 3)])
def test_odd_block_lengths(model, stock, lengths, k, chunk):
    """The original rejects lengths that are not multiples of its block; here layers differ in tokens."""
    ours, theirs = both(model, stock, lengths, 8)
    check(model, ours, theirs, k, chunk)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[4] * 6, [1, 5, 2, 7, 3]])
def test_selecting_everything_equals_full_attention(model, stock, lengths):
    ours, _ = both(model, stock, lengths, 1000)
    question, rest = draw(model, QUESTION, 200), draw(model, REST, 201)
    picks, logits = ours.ask(question, rest, Limits(blocks=len(lengths)))
    assert picks == [list(range(len(lengths)))] * model.layout.layers
    frames = [draw(model, length, seed) for seed, length in enumerate(lengths)]
    everything = torch.cat([draw(model, INIT, 100), *frames, question, rest])
    positions = text_positions(0, len(everything))
    full = stock.model.language_model(
        inputs_embeds=everything[None], position_ids=positions[:, None], use_cache=False
    ).last_hidden_state[0, -1]
    assert relative_error(logits, stock.lm_head(full).float()) < RELATIVE_TOLERANCE


@torch.no_grad()
def test_nothing_retrieved_is_the_prompt_alone(model, stock):
    ours, theirs = both(model, stock, [4] * 6, 9)
    question, rest = draw(model, QUESTION, 200), draw(model, REST, 201)
    picks, logits = ours.ask(question, rest, Limits(blocks=0))
    assert picks == [[]] * model.layout.layers
    theirs.blocks = []
    assert relative_error(logits, theirs.ask(question, rest, 1, 1)[1]) < RELATIVE_TOLERANCE


@torch.no_grad()
def test_adaptive_k_gives_layers_of_different_length(model, stock):
    ours, _ = both(model, stock, [3] * 12, 9)
    question, rest = draw(model, QUESTION, 200), draw(model, REST, 201)
    few, _ = ours.ask(question, rest, Limits(blocks=12, mass=0.9))
    assert len({len(layer) for layer in few}) > 1
    most, logits = ours.ask(question, rest, Limits(blocks=12, mass=0.9, temperature=1e6))
    assert [len(layer) for layer in most] == [11] * model.layout.layers
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_group_summed_queries_give_the_scores_of_the_repeated_index(model, stock):
    """The index is smaller by the group size and the scores are the same."""
    ours, theirs = both(model, stock, [4] * 6, 9)
    memory = ours.index.view()
    raw_queries = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(9))
    for layer in range(model.layout.layers):
        repeated = theirs.scores(layer, raw_queries[:, 2:5].transpose(0, 1))
        mine = memory.dot(layer, layer_query(raw_queries, 2, (2, 5)))
        assert relative_error(mine, repeated) < 1e-5
    assert memory.key_dim * 2 == len(theirs.representative(0, 0))
