"""Hogwild! (arXiv 2504.06261) with nothing shared: every worker's cache is built anew for every step.

Slow and independent of Tandem: texts are raw keys and values; before each pass each reader's whole
cache is laid out as one line of tokens, its keys are rotated to their places in that line by transformers'
own rotary module, and transformers' own eager attention takes one softmax over it. The bookkeeping follows
the paper: a common prompt, a history, a current step a worker.

Differs from the authors' code where that has a slip: a step's last token is the last of the step, in the
history too, instead of the first of the next step; the self-check counts each worker's own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb, eager_attention_forward


class Text:
    """Tokens with raw keys and values, per layer [kv_heads, tokens, head_dim]."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int) -> None:
        self.keys = [torch.empty(kv_heads, 0, head_dim) for _ in range(layers)]
        self.values = list(self.keys)
        self.tokens = 0

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        self.keys[layer] = torch.cat((self.keys[layer], key), 1)
        self.values[layer] = torch.cat((self.values[layer], value), 1)

    def extend(self, other: Text) -> None:
        for layer, (key, value) in enumerate(zip(other.keys, other.values, strict=True)):
            self.write(layer, key, value)
        self.tokens += other.tokens


@dataclass
class Context:
    """The stream as all workers see it: per layer rotated keys and values [kv_heads, M, head_dim]."""

    keys: list[Tensor]
    values: list[Tensor]


@dataclass
class Feed:
    """New tokens of one reader: written to the end of `own`, which it sees behind `before`."""

    before: list[Text]
    own: Text
    ids: Sequence[int]
    positions: Tensor | None = None
    """Of the new tokens, int64 [3, N]; None: behind everything before them, counted from `start`."""


class LiteralHogwild:
    """One question."""

    def __init__(self, stock: Any, context: Context, start: int) -> None:
        self.stock, self.text, self.context, self.start = stock, stock.model.language_model, context, start
        self.prompt = self.new()
        self.prompt_positions = torch.empty(3, 0, dtype=torch.int64)

    def new(self) -> Text:
        config = self.text.config
        return Text(len(self.text.layers), config.num_key_value_heads, self.text.layers[0].self_attn.head_dim)

    @torch.no_grad()
    def through(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Logits behind the last token of each feed; every feed sees what all others write in this pass."""
        for feed in feeds:
            feed.own.tokens += len(feed.ids)
        ids = [token for feed in feeds for token in feed.ids]
        hidden = self.stock.get_input_embeddings()(torch.tensor(ids))
        counts = [len(feed.ids) for feed in feeds]
        lines = [self._line(feed) for feed in feeds]
        angles = [self._angles(feed, line) for feed, line in zip(feeds, lines, strict=True)]
        for index, layer in enumerate(self.text.layers):
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            query, key, value = (
                side(normed).view(len(ids), -1, attention.head_dim).transpose(0, 1)
                for side in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            at = 0
            for feed, count in zip(feeds, counts, strict=True):
                feed.own.write(index, key[:, at : at + count], value[:, at : at + count])
                at += count
            outputs = []
            for line, at_places, own_query in zip(lines, angles, query.split(counts, 1), strict=True):
                outputs.append(self._attend(attention, index, line, at_places, own_query))
            hidden = hidden + attention.o_proj(torch.cat(outputs))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        logits = self.stock.lm_head(self.text.norm(hidden)).float()
        return [part[-1] for part in logits.split(counts)]

    def _line(self, feed: Feed) -> list[Text]:
        return [*([] if feed.own is self.prompt else [self.prompt]), *feed.before, feed.own]

    def _angles(self, feed: Feed, line: list[Text]) -> tuple[Tensor, Tensor]:
        """Cosines and sines at the places of a reader's whole line: the same in all layers."""
        if feed.positions is None:
            behind = sum(text.tokens for text in line) - self.prompt.tokens
            own = (self.start + torch.arange(behind)).expand(3, -1)
        else:
            own = feed.positions
        positions = torch.cat((self.prompt_positions, own), 1)
        cos, sin = self.text.rotary_emb(self.prompt.keys[0], positions[:, None])
        return cos, sin

    def _attend(
        self, attention: Any, layer: int, line: list[Text], angles: tuple[Tensor, Tensor], query: Tensor
    ) -> Tensor:
        """[new tokens, heads * head_dim]"""
        keys = torch.cat([text.keys[layer] for text in line], 1)
        values = torch.cat([text.values[layer] for text in line], 1)
        cos, sin = angles
        assert cos.shape[-2] == keys.shape[1]
        new = query.shape[1]
        # The function wants queries and keys in equal places; the new tokens are the last of the line.
        turned, _ = apply_rotary_pos_emb(query[None], query[None], cos[..., -new:, :], sin[..., -new:, :])
        _, rotated = apply_rotary_pos_emb(keys[None], keys[None], cos, sin)
        all_keys = torch.cat((self.context.keys[layer], rotated[0]), 1)
        all_values = torch.cat((self.context.values[layer], values), 1)
        seen = torch.ones(new, all_keys.shape[1], dtype=torch.bool).tril(all_keys.shape[1] - new)
        mask = torch.zeros(new, all_keys.shape[1]).masked_fill(~seen, float("-inf"))
        output, _ = eager_attention_forward(
            attention,
            turned,
            all_keys[None],
            all_values[None],
            mask[None, None],
            scaling=attention.scaling,
        )
        return output[0].reshape(new, -1)

    def read_prompt(self, ids: Sequence[int], base: Tensor) -> Tensor:
        """Logits behind the prompt, which stands at `base` [3]."""
        positions = base[:, None] + torch.arange(len(ids))
        logits = self.through([Feed([], self.prompt, ids, positions)])[0]
        self.prompt_positions = positions
        return logits


@dataclass
class Play:
    """What the question's workers are to do; ids are tokens."""

    layout: str
    workers: int
    max_tokens: int
    step_tokens: int
    check_every: int
    first_ends_it: bool
    others_header: Sequence[int]
    own_header: Sequence[int]
    answer_opening: Sequence[int]
    answer_tokens: int
    opening: Callable[[int, int, bool], Sequence[int]]
    """(worker, number of its step, with the self-check) -> tokens."""
    ends_step: Callable[[Sequence[int]], bool]
    """Generated tokens of a step, the newest last."""
    ends_turn: Callable[[int], bool]
    choose: Callable[[int, Tensor], int]
    """(worker, or -1 for the answer; logits) -> token."""


@dataclass
class Worker:
    current: Text
    generated: list[int] = field(default_factory=list)
    in_step: list[int] = field(default_factory=list)
    step: int = 1
    since_check: int = 0
    closing: Text | None = None
    unfed: list[int] = field(default_factory=list)
    opening: list[int] = field(default_factory=list)
    why: str = ""


def play(math: LiteralHogwild, plan: Play, logits: Tensor) -> Iterator[tuple[int, Tensor, list[Worker]]]:
    """Every choice as (worker, or -1; logits; workers), in order; `logits` are those behind the prompt."""
    has_history = plan.layout != "contiguous"
    history, others_header, own_header = math.new(), math.new(), math.new()
    several = plan.workers > 1
    if plan.layout == "combined" and several and plan.others_header:
        logits = math.through([Feed([], others_header, plan.others_header)])[0]
    if plan.layout != "interleaved" and several and plan.own_header:
        logits = math.through([Feed([others_header], own_header, plan.own_header)])[0]
    workers = [Worker(math.new(), opening=list(plan.opening(w, 1, False))) for w in range(plan.workers)]
    ready = [(w, logits) for w, worker in enumerate(workers) if not worker.opening]
    while True:
        for w, row in ready:
            yield w, row, workers
            worker = workers[w]
            token = plan.choose(w, row)
            if plan.ends_turn(token):
                worker.why = "end"
                if has_history:
                    worker.closing, worker.current = worker.current, math.new()
                continue
            worker.generated.append(token)
            worker.in_step.append(token)
            worker.since_check += 1
            worker.unfed = [token]
            closes = len(worker.generated) == plan.max_tokens
            if closes:
                worker.why = "length"
            elif plan.ends_step(worker.in_step) or len(worker.in_step) == plan.step_tokens:
                closes = True
                worker.step += 1
                checks = bool(plan.check_every) and worker.since_check >= plan.check_every
                worker.since_check = 0 if checks else worker.since_check
                worker.opening = list(plan.opening(w, worker.step, checks))
                worker.in_step = []
            if closes and has_history:
                worker.closing, worker.current = worker.current, math.new()
        if all(worker.why for worker in workers) or (
            plan.first_ends_it and any(worker.why == "end" for worker in workers)
        ):
            for worker in workers:
                worker.why, worker.opening = worker.why or "others", []
        feeds, readers = [], []
        closed = [worker.closing for worker in workers if worker.closing is not None]
        for w, worker in enumerate(workers):
            others = [other.current for other in workers if other is not worker]
            done = [text for text in closed if text is not worker.closing]
            ids = list(worker.opening)
            if worker.closing is not None and worker.unfed:
                before = _line(plan, history, done, others, others_header, own_header)
                feeds.append(Feed(before, worker.closing, worker.unfed))
                readers.append(w)
            elif worker.closing is None:
                ids = worker.unfed + ids
            if ids:
                before = _line(plan, history, closed, others, others_header, own_header)
                feeds.append(Feed(before, worker.current, ids))
                readers.append(w)
        if not feeds:
            break
        newest = dict(zip(readers, math.through(feeds), strict=True))
        for worker in workers:
            if worker.closing is not None:
                history.extend(worker.closing)
            worker.closing, worker.unfed, worker.opening = None, [], []
        ready = [(w, newest[w]) for w in sorted(newest) if not workers[w].why]
    yield from _answer(math, plan, workers, history, own_header)


def _line(
    plan: Play, history: Text, closed: list[Text], others: list[Text], others_header: Text, own_header: Text
) -> list[Text]:
    """What a worker sees between the prompt and its own text."""
    if plan.layout == "contiguous":
        return [*others, own_header]
    if plan.layout == "interleaved":
        return [history, *closed]
    return [history, *closed, others_header, *others, own_header]


def _answer(
    math: LiteralHogwild, plan: Play, workers: list[Worker], history: Text, own_header: Text
) -> Iterator[tuple[int, Tensor, list[Worker]]]:
    speaker = next((w for w, worker in enumerate(workers) if worker.why == "end"), 0)
    if plan.layout == "contiguous":
        before = [worker.current for w, worker in enumerate(workers) if w != speaker] + [own_header]
        own = workers[speaker].current
    else:
        for worker in workers:
            for text in (worker.closing, worker.current):
                if text is not None:
                    history.extend(text)
        before, own = [history], math.new()
    ids = list(plan.answer_opening)
    for _ in range(plan.answer_tokens):
        row = math.through([Feed(before, own, ids)])[0]
        yield -1, row, workers
        token = plan.choose(-1, row)
        if plan.ends_turn(token):
            return
        ids = [token]
