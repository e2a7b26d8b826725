"""Second stage of training: the text model learns to answer from the frozen tower's visual tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.shapes.batches import COUNTS, GUIDED, Batch, make_batch
from tandem.shapes.layout import BLOCK_TOKENS
from tandem.shapes.network import HIDDEN
from tandem.shapes.questions import KINDS
from tandem.shapes.words import COLOURS, SHAPES

AUX_LAYER = 2
CODE_LAYER, CODE_WEIGHT = 3, 1.5
CODES = len(SHAPES) + len(COLOURS) + 1
GUIDE, COUNT_GUIDE, FIND = 0.2, 0.3, 0.3  # weights of the losses of guided heads and of retrieval
FIND_LAYERS = (2, 3, 4)  # where retrieval should find the evidence
STEADY = 0.8  # part of the clips whose events stand still
AUX_SIZES = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "new": 2,
    "prev_shape": len(SHAPES) + 1,
    "prev_colour": len(COLOURS) + 1,
    "minute": 60,
    "second": 60,
}


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: clips of up to `frames` frames, about `tokens` tokens a step."""

    steps: int
    shortest: int
    frames: int
    budget: int
    tokens: int
    half: bool = True  # bfloat16 products; exact counting needs the last stages in float32


def _rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _guide(layer: int, q: Tensor, k: Tensor, batch: Batch) -> list[Tensor]:
    """How far this layer's guided heads are from looking where they should, per guided head and token."""
    place = batch.look_from.clamp(min=0)
    mask = batch.question_mask[:, 0].gather(1, place[:, :, None].expand(-1, -1, k.shape[2]))
    sink = batch.video - batch.bank_rows.shape[1] * BLOCK_TOKENS
    out = []
    for number, (guided_layer, head, kinds, tell) in enumerate(GUIDED):
        if guided_layer != layer:
            continue
        index = (place + batch.video)[:, :, None].expand(-1, -1, q.shape[-1])
        scores: Tensor = q[:, head].gather(1, index).float() @ k[:, head].float().transpose(1, 2)
        log = torch.log_softmax(scores * q.shape[-1] ** -0.5 + mask, dim=-1)
        ends = log[..., sink + BLOCK_TOKENS - 1 : batch.video : BLOCK_TOKENS]
        own = log.gather(2, (place + batch.video)[..., None])
        log = torch.cat([log[..., :1], ends, own], dim=-1).clamp(min=-30)
        want = batch.look_at[:, number]
        guided = (batch.look_from >= 0) & (want.sum(-1) > 0)
        if kinds is COUNTS:
            far = COUNT_GUIDE * _count_error(log[guided], want[guided], float(tell))
        else:
            far = GUIDE * (-(want * log).sum(-1) - torch.special.entr(want).sum(-1))[guided]
        out.append(far.sum() / guided.sum().clamp(min=1))
    return out


def _count_error(log: Tensor, want: Tensor, own_weight: float) -> Tensor:
    """How far a head is from counting, per guided token: the variance of its count, about, and what it adds.

    `log` [N, 1 + F + 1] is its attention to the sink, the frames and the asking token, `want` what it should
    be. Every counted frame should weigh `1 / own_weight` of the asking token, all else nothing. The errors of
    the frames add up in the count, so they are summed: a mean would hardly see the tenths that make a count
    of five wrong.
    """
    relative = log - log[:, -1:] + math.log(own_weight)
    counted = want > 0
    counted[:, -1] = False
    uneven = nn.functional.smooth_l1_loss(relative, torch.zeros_like(relative), reduction="none", beta=0.5)
    whole = (log.exp().sum(-1) - log[:, -1].exp() - (log.exp() * counted).sum(-1)).clamp(min=0)
    extra = (whole + (1 - log.exp().sum(-1)).clamp(min=0)) * own_weight * (-log[:, -1]).clamp(max=5).exp()
    return (uneven * counted).sum(-1) + extra.clamp(max=5)


def _find(q: Tensor, k: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """How far retrieval by representative keys is from the evidence (ReKV, arXiv 2503.00540), and its hits.

    `q` and `k` are raw. A question's mean query scores the mean key of every block of every clip.
    """
    groups = q.shape[1] // k.shape[1]
    sink = batch.video - batch.bank_rows.shape[1] * BLOCK_TOKENS
    rows, heads, _, width = k.shape
    video = k[:, :, sink : batch.video].float()
    blocks = video.reshape(rows, heads, -1, BLOCK_TOKENS, width).mean(3)
    keys = blocks.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    row, first, end = batch.asked.unbind(1)
    words = q[:, :, batch.video :].float().reshape(rows, heads, groups, -1, width)
    words = words.sum(2).transpose(1, 2).flatten(2)
    total = nn.functional.pad(words.cumsum(1), (0, 0, 1, 0))
    asked = (total[row, end] - total[row, first]) / (end - first)[:, None]
    scores = (asked @ keys.T * q.shape[-1] ** -0.5).masked_fill(batch.spared, -1e9)
    log = torch.log_softmax(scores, -1)
    loss = -log.masked_fill(~batch.wanted, -1e9).logsumexp(-1)
    best = scores.masked_fill(~batch.wanted, -1e9).amax(-1, keepdim=True)
    return FIND * loss.sum() / max(len(loss), 1), ((scores > best).sum(-1) < 8).float().mean()


def text_forward(
    text: Any, x: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The text model on embedded rows.

    Returns the final states, the states after AUX_LAYER layers, the normed input of CODE_LAYER's attention,
    the losses of guided heads and of retrieval, and how often retrieval would find the evidence per layer.

    The same modules and sums as its own forward; video and questions attend apart, which skips the
    half of the scores that no question needs.
    """
    rows, length, _ = x.shape
    cos, sin = (t[:, None] for t in text.rotary_emb(x, batch.positions))
    middle, coded, guides, hits = x, x, list[Tensor](), list[Tensor]()
    for number, layer in enumerate(text.layers):
        a = layer.self_attn
        h = layer.input_layernorm(x)
        if number == CODE_LAYER:
            coded = h
        q = a.q_proj(h).view(rows, length, -1, a.head_dim).transpose(1, 2)
        k = a.k_proj(h).view(rows, length, -1, a.head_dim).transpose(1, 2)
        v = a.v_proj(h).view(rows, length, -1, a.head_dim).transpose(1, 2)
        if number in FIND_LAYERS:
            far, hit = _find(q, k, batch)
            guides.append(far)
            hits.append(hit)
        q, k = q * cos + _rotate_half(q) * sin, k * cos + _rotate_half(k) * sin
        k, v = (t.repeat_interleave(a.num_key_value_groups, dim=1) for t in (k, v))
        guides += _guide(number, q, k, batch)
        n = batch.video
        seen = _attend(q[:, :, :n], k[:, :, :n], v[:, :, :n], batch.video_mask, batch.video_mask is None)
        asked = _attend(q[:, :, n:], k, v, batch.question_mask)
        out = torch.cat([seen, asked], dim=2).transpose(1, 2).reshape(rows, length, -1)
        x = x + a.o_proj(out)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number + 1 == AUX_LAYER:
            middle = x
    return text.norm(x), middle, coded, guides, hits


def embed(model: Any, bank: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    """Embed the tokens; every frame takes visual tokens of a random picture of what it shows.

    In most clips an event keeps one picture while it lasts, in the others it changes every frame.
    """
    x = model.model.language_model.embed_tokens(batch.ids)
    rows, frames = batch.bank_rows.shape
    pick = torch.randint(0, bank.shape[1], (rows, frames), generator=generator)
    steady = torch.rand(rows, generator=generator) < STEADY
    for f in range(1, frames):
        same = steady & (batch.bank_rows[:, f] == batch.bank_rows[:, f - 1])
        pick[:, f] = torch.where(same, pick[:, f - 1], pick[:, f])
    visual = bank[batch.bank_rows, pick]
    sink = batch.video - frames * BLOCK_TOKENS
    video = x[:, sink : batch.video].view(rows, frames, BLOCK_TOKENS, HIDDEN)
    video = torch.cat([video[:, :, :4], visual.to(x.dtype), video[:, :, 8:]], dim=2)
    return torch.cat([x[:, :sink], video.reshape(rows, -1, HIDDEN), x[:, batch.video :]], dim=1)


def codes(batch: Batch) -> Tensor:
    """What a linear reading of each block's last token should be: one-hot shape and colour where new, else 0.

    Counting needs every thing of a kind to weigh the same, so these are fitted by least squares: a reader
    that only has to tell them apart would let them differ in size.
    """
    shape = nn.functional.one_hot(batch.aux["shape"], len(SHAPES) + 1)[..., 1:]
    colour = nn.functional.one_hot(batch.aux["colour"], len(COLOURS) + 1)[..., 1:]
    new = batch.aux["new"][..., None]
    return torch.cat([shape * new, colour * new, new], dim=-1).float()


class TextTrainer:
    """Holds the optimizers and runs the curriculum."""

    def __init__(self, model: Any, bank: Tensor, vocabulary: dict[str, int], seed: int, rate: float) -> None:
        self.model, self.bank, self.vocabulary, self.rate = model, bank, vocabulary, rate
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.readers = nn.ModuleDict({name: nn.Linear(HIDDEN, size) for name, size in AUX_SIZES.items()})
        self.readers["codes"] = nn.Linear(HIDDEN, CODES)
        text = model.model.language_model
        matrices = [p for p in text.layers.parameters() if p.ndim == 2]
        others = [p for p in text.parameters() if p.ndim != 2]
        others += [text.embed_tokens.weight, model.lm_head.weight, *self.readers.parameters()]
        self.parameters = [*matrices, *others]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0
        self.hits = np.zeros((len(KINDS), 2))
        self.losses: list[float] = []
        self.guides: list[list[float]] = []
        self.found: list[list[float]] = []
        self.code_errors: list[float] = []

    def run(
        self, stages: Sequence[Stage], save: Callable[[], None], warm: int = 100, end: float = 0.02
    ) -> None:
        """Run the stages with warm-up and a linear decay to `end` of the rate over the last 60 %."""
        total = sum(stage.steps for stage in stages)
        done, began, told = 0, time.time(), time.time()
        for stage in stages:
            print(f"text: {stage}", flush=True)
            for _ in range(stage.steps):
                decay = max(end, min(1.0, (total - done) / (0.6 * total)))
                self._set_rate(self.rate * min(1.0, (done + 1) / warm) * decay)
                self._train_step(stage)
                done += 1
                if time.time() - told > 45:
                    told = time.time()
                    self._report(done, total, told - began)
            save()

    def _set_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _train_step(self, stage: Stage) -> None:
        frames = int(self.rng.integers(stage.shortest, stage.frames + 1))
        clips = max(2, stage.tokens // (frames * BLOCK_TOKENS + stage.budget))
        windowed = bool(self.rng.random() < 0.5)
        batch = make_batch(self.rng, self.vocabulary, clips, frames, stage.budget, windowed)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stage.half):
            loss = self._loss(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.losses.append(float(loss.detach()))

    def _loss(self, batch: Batch) -> Tensor:
        x = embed(self.model, self.bank, batch, self.generator)
        states, middle, coded, guides, hits = text_forward(self.model.model.language_model, x, batch)
        learned = batch.targets >= 0
        logits = self.model.lm_head(states[learned])
        targets = batch.targets[learned]
        self._count(batch, learned, logits.detach().argmax(-1) == targets)
        loss = nn.functional.cross_entropy(logits, targets) + torch.stack(guides).sum()
        self.guides.append([float(guide.detach()) for guide in guides])
        self.found.append([float(hit) for hit in hits])
        sink = batch.video - batch.bank_rows.shape[1] * BLOCK_TOKENS
        ends = middle[:, sink + BLOCK_TOKENS - 1 : batch.video : BLOCK_TOKENS]
        for name in AUX_SIZES:
            aux = nn.functional.cross_entropy(
                self.readers[name](ends).flatten(0, 1), batch.aux[name].flatten()
            )
            loss = loss + 0.15 * aux
        ends = coded[:, sink + BLOCK_TOKENS - 1 : batch.video : BLOCK_TOKENS]
        code = (self.readers["codes"](ends).float() - codes(batch)).square().sum(-1).mean()
        self.code_errors.append(float(code.detach()))
        total: Tensor = loss + CODE_WEIGHT * code
        return total

    def _count(self, batch: Batch, learned: Tensor, right: Tensor) -> None:
        kinds = batch.kinds[learned].numpy()
        self.hits[:, 0] += np.bincount(kinds, weights=right.numpy(), minlength=len(KINDS))
        self.hits[:, 1] += np.bincount(kinds, minlength=len(KINDS))

    def _report(self, done: int, total: int, seconds: float) -> None:
        parts = [f"{k} {h / max(n, 1):.3f}" for k, (h, n) in zip(KINDS, self.hits, strict=True)]
        means = f"loss {np.mean(self.losses):.3f} guides {np.mean(self.guides, 0).round(3)}"
        means += f" found {np.mean(self.found, 0).round(2)} codes {np.mean(self.code_errors):.4f}"
        print(f"text: {done}/{total} {seconds:.0f} s {means} | {' '.join(parts)}", flush=True)
        self.hits[:], self.losses, self.guides, self.found, self.code_errors = 0, [], [], [], []
