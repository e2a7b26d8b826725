"""Workers that share one prefix and see each other's text: tokens per second next to one worker and a batch.

The reasoner's own `Workspace` in the layouts of Hogwild! Inference (arXiv 2504.06261). In *contiguous* each
of k workers sees the shared prefix, the others' tails and its own, the others' newest tokens included, each
tail at a base that moves as the tails before it grow; in the others the tails are finished steps and stand
in a common history. All step in one `forward_many`, each with a sampler of its own. The peer is transformers'
batched decoding (see `_decoding`) of as many rows, each with a copy of the prefix and a tail as long as one
worker's; its rows do not see each other. Same weights, dtype, threads; prefill is outside the timing.

``tokens_per_second_w<k>_<prefix>`` (one_worker): all workers' tokens; the ratio is over one worker's.
``vs_hf_batch_w<k>_<prefix>`` (hf_decode): the same beside the peer's. ``prefix_bytes_w<k>_<prefix>``
(hf_decode): bytes that the prefix takes, the peer's over ours. Every turn measures all of a prefix's cases;
a ratio is that of one turn's medians. The layouts *interleaved* and *combined* are measured at one place and
have their name behind the metric's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from bench._decoding import SOURCE, Kept, Peer, Row, positions, random_kept, row, segment_of
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.sampler import Sampler
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.workspace import Feed, Workspace
from tandem.vlm.load import load_model
from tandem.vlm.model import Step, VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.unsplit import stock_model
from tandem.vlm.view import Part

WORKERS = (1, 2, 4, 8)
PREFIXES = (1024, 4096, 16384)
TAIL = 64
PROMPT = 8
"""The last of the prefix: what the workers were asked."""
LAYOUTS_AT = (4, 4096)
"""Workers and prefix at which every layout is measured."""
FIRST = 65


def settings(quick: bool) -> dict[str, Any]:
    """What `run` is going to do."""
    return {
        "model": SOURCE,
        "dtype": "float32",
        "threads": 1,
        "workers": WORKERS[::2] if quick else WORKERS,
        "prefixes": PREFIXES[:2] if quick else PREFIXES,
        "tail_tokens": TAIL,
        "turns": 2 if quick else 7,
        "steps_per_turn": 3 if quick else 5,
    }


def run(*, quick: bool = False) -> list[Row]:
    """Rows of ``{metric, value, unit, baseline, ratio, n, spread}``."""
    chosen = settings(quick)
    torch.set_num_threads(chosen["threads"])
    model, stock = load_model(chosen["model"]), stock_model(chosen["model"]).eval()
    rows = []
    with torch.inference_mode():
        for prefix in chosen["prefixes"]:
            rows += measure(
                model, stock, prefix, chosen["workers"], chosen["turns"], chosen["steps_per_turn"]
            )
    return rows


class Team:
    """Workers over one prefix; their tails hold some text."""

    def __init__(
        self,
        model: VisionLanguageModel,
        stream: Segment,
        prompt: Kept,
        tails: Sequence[Kept],
        layout: Layout = Layout.CONTIGUOUS,
    ) -> None:
        self._model, self._stream, self._tokens = model, stream, prompt[0].shape[2]
        self.space = Workspace(model, layout, len(tails), self._tokens)
        self.space.prompt.append_raw(*prompt, positions(stream.end, self._tokens))
        for worker, (segment, tail) in enumerate(zip(list(self.space.work), tails, strict=True)):
            segment.append_raw(*tail, positions(0, tail[0].shape[2]))
            self.space.close(worker)
        self.space.settle()

    @property
    def prefix_bytes(self) -> int:
        """Of the stream and the prompt, of which there is one."""
        return self._stream.nbytes + self.space.prompt.nbytes

    def steps(self, tokens: Sequence[int]) -> list[Step]:
        """Everyone's next step, as the layout has it."""
        feeds = [Feed(worker, (token,)) for worker, token in enumerate(tokens)]
        return self.space.steps(
            feeds, self._stream.end + self._tokens, lambda _: (Part(segment=self._stream),)
        )

    def decode(self, steps: int) -> tuple[list[float], list[list[int]]]:
        """Seconds of each greedy step and everyone's tokens; forgets them afterwards."""
        work = self.space.work
        samplers = [Sampler(SamplingParams()) for _ in work]
        tokens = [FIRST + me for me in range(len(work))]
        seconds, made, ends = [], [], [own.end for own in work]
        for _ in range(steps):
            began_s = time.perf_counter()
            results = self._model.forward_many(self.steps(tokens))
            logits = self._model.logits(torch.cat([result.hidden for result in results]))
            tokens = [sampler.choose(each) for sampler, each in zip(samplers, logits, strict=True)]
            seconds.append(time.perf_counter() - began_s)
            made.append(tokens)
        for own, end in zip(work, ends, strict=True):
            own.truncate(end)
        return seconds, made


class Case:
    """One number of workers on one prefix: ours and the peer's."""

    def __init__(
        self,
        model: VisionLanguageModel,
        stock: Any,
        kept: Kept,
        stream: Segment,
        workers: int,
        layout: Layout = Layout.CONTIGUOUS,
    ) -> None:
        """`stream` holds all of `kept`, the prefix, but for its last tokens."""
        tails = [random_kept(model, TAIL, seed=worker) for worker in range(workers)]
        rows = [tuple(torch.cat(sides, 2) for sides in zip(kept, tail, strict=True)) for tail in tails]
        self.workers, self.layout = workers, layout
        self.team = Team(model, stream, _last(kept), tails, layout)
        self.peer = Peer(stock, model, rows)
        self.ours_s: list[float] = []
        self.theirs_s: list[float] = []
        """Medians of the turns."""

    def turn(self, steps: int) -> None:
        """Both, one after the other."""
        ours, _ = self.team.decode(steps)
        theirs, _ = self.peer.decode([FIRST + worker for worker in range(self.workers)], steps)
        self.ours_s.append(statistics.median(ours))
        self.theirs_s.append(statistics.median(theirs))


def stream_of(model: VisionLanguageModel, kept: Kept) -> Segment:
    """All of the prefix but the prompt."""
    keys, values = kept
    return segment_of(model, (keys[:, :, :-PROMPT], values[:, :, :-PROMPT]))


def _last(kept: Kept) -> Kept:
    keys, values = kept
    return keys[:, :, -PROMPT:], values[:, :, -PROMPT:]


def measure(
    model: VisionLanguageModel, stock: Any, tokens: int, workers: Sequence[int], turns: int, steps: int
) -> list[Row]:
    """The rows of one prefix."""
    kept = random_kept(model, tokens, seed=tokens)
    stream = stream_of(model, kept)
    cases = [Case(model, stock, kept, stream, count) for count in workers]
    if tokens == LAYOUTS_AT[1]:
        cases += [
            Case(model, stock, kept, stream, LAYOUTS_AT[0], layout) for layout in Layout if layout.has_history
        ]
    for case in cases:
        case.turn(1)  # warms up
        case.ours_s.clear()
        case.theirs_s.clear()
    for _ in range(turns):
        for case in cases:
            case.turn(steps)
    return [each for case in cases for each in _rows(case, cases[0], tokens)]


def _rows(case: Case, one: Case, tokens: int) -> list[Row]:
    k, name = case.workers, f"w{case.workers}_{tokens}"
    name += f"_{case.layout}" if case.layout.has_history else ""
    rates = [k / seconds for seconds in case.ours_s]
    scale = [k * single / many for single, many in zip(one.ours_s, case.ours_s, strict=True)]
    beside = [theirs / ours for theirs, ours in zip(case.theirs_s, case.ours_s, strict=True)]
    ours_bytes = case.team.prefix_bytes
    theirs_bytes = case.peer.nbytes * tokens // case.peer.context
    return [
        row(
            f"tokens_per_second_{name}",
            rates,
            "1/s",
            baseline=1 / statistics.median(one.ours_s),
            ratio=statistics.median(scale),
            baseline_is="one_worker",
        ),
        row(
            f"vs_hf_batch_{name}",
            rates,
            "1/s",
            baseline=k / statistics.median(case.theirs_s),
            ratio=statistics.median(beside),
            baseline_is="hf_decode",
        ),
        row(
            f"prefix_bytes_{name}",
            [float(ours_bytes)],
            "bytes",
            baseline=float(theirs_bytes),
            ratio=theirs_bytes / ours_bytes,
            baseline_is="hf_decode",
        ),
    ]
