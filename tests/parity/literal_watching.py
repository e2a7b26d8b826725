"""Think-as-You-See (arXiv 2603.02872) with nothing shared: a note is written again from its arrivals.

Before every pass the watcher's whole cache is laid out anew: sink, the blocks that had arrived, notes, prompt
and text, raw keys rotated to explicit places by transformers' own rotary module; then one softmax over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kv_transfer.block import Block
from tests.parity.literal_hogwild import Context, Feed, LiteralHogwild


@dataclass(frozen=True)
class Written:
    """One note as it is to be written again."""

    passes: Sequence[tuple[int, ...]]
    """The tokens that went through the model, pass by pass."""
    prompt_tokens: int
    """How many of them are prompt; the rest is the watcher's own text."""
    arrivals: Sequence[tuple[int, tuple[int, int]]]
    """(token, block numbers): from which token on which blocks were in view."""
    notes: Sequence[Block]
    """That were in view."""
    two_counters: bool


class LiteralWatcher:
    """One stream's blocks, sink first."""

    def __init__(self, model: Any, stock: Any, blocks: Sequence[Block]) -> None:
        self.prompt, self.stock, self.blocks = model.prompt, stock, {b.key.number: b for b in blocks}

    def rewrite(self, note: Written) -> list[Tensor]:
        """Logits behind every pass."""
        math = LiteralHogwild(self.stock, Context([], []), 0)
        text, through, rows = math.new(), 0, []
        for ids in note.passes:
            numbers = [numbers for token, numbers in note.arrivals if token <= through][-1]
            math.context, prompt_base, text_base = self._context(numbers, note)
            math.prompt_positions = (prompt_base + torch.arange(math.prompt.tokens)).expand(3, -1)
            own, base = (math.prompt, prompt_base) if through < note.prompt_tokens else (text, text_base)
            first = own.tokens if own is math.prompt else 0
            positions = (base + torch.arange(first, own.tokens + len(ids))).expand(3, -1)
            rows.append(math.through([Feed([], own, ids, positions)])[0])
            through += len(ids)
        return rows

    def _context(self, numbers: tuple[int, int], note: Written) -> tuple[Context, int, int]:
        """What stands before prompt and text, and where these begin."""
        shown = [
            block for number, block in self.blocks.items() if number and numbers[0] <= number < numbers[1]
        ]
        placement = self.prompt.placement()
        bases = placement.place_units([block.header.geometry for block in shown])
        after, noted = placement.after_units()[0], sum(block.header.tokens for block in note.notes)
        shelf = 0 if note.two_counters else after
        chosen = [(self.blocks[0], (0, 0, 0)), *zip(shown, bases, strict=True)]
        for block in note.notes:
            chosen.append((block, (shelf, shelf, shelf)))
            shelf += block.header.tokens
        if note.two_counters:
            return self._rotated(chosen), after, noted
        return (
            self._rotated(chosen),
            after + noted,
            placement.generation_start(note.prompt_tokens) + noted,
        )

    def _rotated(self, chosen: Sequence[tuple[Block, tuple[int, int, int]]]) -> Context:
        text = self.stock.model.language_model
        keys: list[list[Tensor]] = [[] for _ in text.layers]
        values: list[list[Tensor]] = [[] for _ in text.layers]
        for block, base in chosen:
            positions = self.prompt.local_positions(block.header.geometry) + torch.tensor(base)[:, None]
            cos, sin = text.rotary_emb(block.keys(), positions[:, None])
            for layer, (key, value) in enumerate(zip(block.keys(), block.values(), strict=True)):
                first, second = key.chunk(2, -1)
                keys[layer].append(key * cos + torch.cat((-second, first), -1) * sin)
                values[layer].append(value)
        return Context([torch.cat(part, 1) for part in keys], [torch.cat(part, 1) for part in values])
