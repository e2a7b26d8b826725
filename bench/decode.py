"""Decoding one question: tokens per second next to transformers, at growing contexts.

Ours is the path of the reasoner: a view of sink, run and tail, `forward_many`, logits, sampler. The peer has
the same weights, dtype, threads and context, SDPA attention and a kept cache (see `_decoding`). Contexts are
random keys and values, the same for both; neither side's timing holds prefill. Both decode the same tokens,
and it is checked that they do.

``tokens_per_second_<context>`` (hf_decode): a ratio is that of one turn's medians; they take turns.
``vs_static_cache_<context>`` (hf_decode): the same beside the cache that does not copy itself.
``of_floor_<context>``: the time to read the weights and the context once, over the time of a token. The rate
of reading is measured in every turn too.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from bench._decoding import (
    SOURCE,
    Peer,
    Row,
    positions,
    random_kept,
    read_rate,
    row,
    segment_of,
    weight_bytes,
)
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.sampler import Sampler
from tandem.vlm.load import load_model
from tandem.vlm.model import Step, VisionLanguageModel
from tandem.vlm.unsplit import stock_model
from tandem.vlm.view import Part, View

CONTEXTS = (1024, 4096, 16384)
SINK, PROMPT = 32, 32
FIRST = 65


def settings(quick: bool) -> dict[str, Any]:
    """What `run` is going to do."""
    return {
        "model": SOURCE,
        "dtype": "float32",
        "threads": 1,
        "contexts": CONTEXTS[:2] if quick else CONTEXTS,
        "turns": 2 if quick else 9,
        "tokens_per_turn": 4 if quick else 8,
    }


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    chosen = settings(quick)
    torch.set_num_threads(chosen["threads"])
    model, stock = load_model(chosen["model"]), stock_model(chosen["model"]).eval()
    rows = []
    with torch.inference_mode():
        for context in chosen["contexts"]:
            rows += measure(model, stock, context, chosen["turns"], chosen["tokens_per_turn"])
    return rows


class Question:
    """One question of the reasoner over a context of random content; the prompt is in its tail."""

    def __init__(self, model: VisionLanguageModel, context: int) -> None:
        self.model, self.context = model, context
        self.kept = random_kept(model, context, seed=context)
        pieces = [(0, SINK), (SINK, context - PROMPT), (context - PROMPT, context)]
        sink, run, tail = (
            segment_of(model, tuple(side[:, :, lo:hi] for side in self.kept), room=64) for lo, hi in pieces
        )
        self._tail = tail
        self._view = View(
            parts=(Part(segment=sink), Part(segment=run, base=(SINK,) * 3, end=run.end)),
            tail=Part(segment=tail, base=(context - PROMPT,) * 3),
        )
        self.context_bytes = sum(side.nbytes for side in self.kept)

    def decode(self, first: int, tokens: int) -> tuple[list[float], list[int]]:
        """Seconds of each greedy step and its token; forgets them afterwards."""
        sampler, token = Sampler(SamplingParams()), first
        seconds, made, end = [], [], self._tail.end
        for at in range(self.context, self.context + tokens):
            began_s = time.perf_counter()
            step = Step(embeds=self.model.embed((token,)), positions=positions(at, 1), view=self._view)
            (result,) = self.model.forward_many([step])
            token = sampler.choose(self.model.logits(result.hidden[-1:])[0])
            seconds.append(time.perf_counter() - began_s)
            made.append(token)
        self._tail.truncate(end)
        return seconds, made


def measure(model: VisionLanguageModel, stock: Any, context: int, turns: int, tokens: int) -> list[Row]:
    """The rows of one context."""
    question, rate = Question(model, context), read_rate()
    peers = {
        "tokens_per_second": Peer(stock, model, [question.kept]),
        "vs_static_cache": Peer(stock, model, [question.kept], static_room=tokens),
    }
    read = weight_bytes(stock) + question.context_bytes
    ours: list[float] = []
    floors: list[float] = []
    theirs: dict[str, list[float]] = {metric: [] for metric in peers}
    for turn in range(-1, turns):
        floor_s = read / statistics.median(rate() for _ in range(3))
        seconds, made = question.decode(FIRST, tokens)
        their = {metric: peer.decode([FIRST], tokens) for metric, peer in peers.items()}
        if turn < 0:  # warms up
            for _, others in their.values():
                assert made == [token for (token,) in others], (made, others)
            continue
        ours.append(statistics.median(seconds))
        floors.append(floor_s / ours[-1])
        for metric, (their_seconds, _) in their.items():
            theirs[metric].append(statistics.median(their_seconds))
    rows = [beside(f"{metric}_{context}", ours, them) for metric, them in theirs.items()]
    return [*rows, row(f"of_floor_{context}", floors, "of 1")]


def beside(metric: str, ours: list[float], theirs: list[float]) -> Row:
    """The row of our rate next to a peer's, from the medians of the turns."""
    return row(
        metric,
        [1 / seconds for seconds in ours],
        "1/s",
        baseline=1 / statistics.median(theirs),
        ratio=statistics.median(them / us for us, them in zip(ours, theirs, strict=True)),
        baseline_is="hf_decode",
    )
