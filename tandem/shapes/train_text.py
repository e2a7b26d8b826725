"""Second stage of training: the text model learns to answer from the frozen tower's visual tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.shapes.batches import Batch, make_batch
from tandem.shapes.events import LAST_SECOND
from tandem.shapes.guides import FIND, find_loss, look_losses
from tandem.shapes.layout import BLOCK_TOKENS
from tandem.shapes.network import HIDDEN, rotate_half
from tandem.shapes.note_batches import make_note_batch
from tandem.shapes.recall_batches import CHUNK, RecallBatch, make_recall_batch
from tandem.shapes.recall_text import Layers, recall_forward
from tandem.shapes.tally import Tally
from tandem.shapes.words import COLOURS, SHAPES

AUX_LAYER = 2
CODE_LAYER, CODE_WEIGHT = 3, 1.5
CODES = len(SHAPES) + len(COLOURS) + 1
FIND_LAYERS = (2, 3, 4)  # where retrieval should find the evidence
RECALL_QUESTIONS = 64  # about one stream
RECALL_GUIDE = 0.5  # weight of the guided heads' loss there
NOTES_BUDGET = 160  # tokens of questions about each stream with notes
SECOND_WEIGHT = 0.3
SAVE_EVERY = 50
STEADY = 0.8  # part of the clips whose events stand still
AUX_SIZES = {
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "new": 2,
    "prev_shape": len(SHAPES) + 1,
    "prev_colour": len(COLOURS) + 1,
    "hour": LAST_SECOND // 3600 + 1,
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
    recall: float = 0.0  # part of the steps whose questions see what they retrieve of a long stream
    notes: float = 0.0  # part of the steps whose questions see notes about a long stream


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


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
        if number in FIND_LAYERS and len(batch.asked):
            far, hit = find_loss(q, k, batch)
            guides.append(far)
            hits.append(hit)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (t.repeat_interleave(a.num_key_value_groups, dim=1) for t in (k, v))
        guides += look_losses(number, q, k, batch)
        n = batch.video
        seen = _attend(q[:, :, :n], k[:, :, :n], v[:, :, :n], batch.video_mask, batch.video_mask is None)
        asked = _attend(q[:, :, n:], k, v, batch.question_mask)
        out = torch.cat([seen, asked], dim=2).transpose(1, 2).reshape(rows, length, -1)
        x = x + a.o_proj(out)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number + 1 == AUX_LAYER:
            middle = x
    return text.norm(x), middle, coded, guides, hits


def embed(model: Any, bank: Tensor, batch: Batch | RecallBatch, generator: torch.Generator) -> Tensor:
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


def codes(aux: dict[str, Tensor]) -> Tensor:
    """What a linear reading of each block's last token should be: one-hot shape and colour where new, else 0.

    Counting needs every thing of a kind to weigh the same, so these are fitted by least squares: a reader
    that only has to tell them apart would let them differ in size.
    """
    shape = nn.functional.one_hot(aux["shape"], len(SHAPES) + 1)[..., 1:]
    colour = nn.functional.one_hot(aux["colour"], len(COLOURS) + 1)[..., 1:]
    new = aux["new"][..., None]
    return torch.cat([shape * new, colour * new, new], dim=-1).float()


class TextTrainer:
    """Holds the optimizers and runs the curriculum."""

    def __init__(self, model: Any, bank: Tensor, vocabulary: dict[str, int], seed: int, rate: float) -> None:
        self.model, self.bank, self.vocabulary, self.rate = model, bank, vocabulary, rate
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.readers = nn.ModuleDict({name: nn.Linear(HIDDEN, size) for name, size in AUX_SIZES.items()})
        self.readers["asked_hour"] = nn.Linear(HIDDEN, AUX_SIZES["hour"])
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
        self.clips, self.recall, self.notes = Tally(), Tally(), Tally()
        self.losses: list[float] = []
        self.code_errors: list[float] = []
        self.note_errors: list[float] = []
        self.second_hits: list[float] = []

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
                if done % SAVE_EVERY == 0:
                    save()
                if time.time() - told > 45:
                    told = time.time()
                    self._report(done, total, told - began)
            save()

    def _set_rate(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _train_step(self, stage: Stage) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stage.half):
            loss = self._draw_loss(stage)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.losses.append(float(loss.detach()))

    def _draw_loss(self, stage: Stage) -> Tensor:
        roll = self.rng.random()
        if roll < stage.recall:
            return self._recall_loss(stage)
        if roll < stage.recall + stage.notes:
            batch = make_note_batch(self.rng, self.vocabulary, stage.tokens, NOTES_BUDGET)
            return self._loss(batch, self.notes)
        frames = int(self.rng.integers(stage.shortest, stage.frames + 1))
        clips = max(2, stage.tokens // (frames * BLOCK_TOKENS + stage.budget))
        windowed = bool(self.rng.random() < 0.5)
        batch = make_batch(self.rng, self.vocabulary, clips, frames, stage.budget, windowed)
        return self._loss(batch, self.clips)

    def _loss(self, batch: Batch, tally: Tally) -> Tensor:
        x = embed(self.model, self.bank, batch, self.generator)
        states, middle, coded, guides, hits = text_forward(self.model.model.language_model, x, batch)
        learned = batch.targets >= 0
        logits = self.model.lm_head(states[learned])
        targets = batch.targets[learned]
        tally.count(batch.kinds[learned], logits.detach().argmax(-1) == targets)
        loss = nn.functional.cross_entropy(logits, targets) + torch.stack(guides).sum()
        tally.guides.append([float(guide.detach()) for guide in guides])
        if hits:
            tally.found.append([float(hit) for hit in hits])
        sink = batch.video - batch.bank_rows.shape[1] * BLOCK_TOKENS
        ends = slice(sink + BLOCK_TOKENS - 1, batch.video, BLOCK_TOKENS)
        loss = loss + self._read(middle[:, ends], coded[:, ends], batch.aux)
        loss = loss + self._read_seconds(middle[:, batch.video :], batch)
        return loss + self._read_notes(coded[:, batch.video :], batch)

    def _recall_loss(self, stage: Stage) -> Tensor:
        frames = CHUNK * max(2, stage.tokens // (CHUNK * BLOCK_TOKENS))
        batch = make_recall_batch(self.rng, self.vocabulary, frames, RECALL_QUESTIONS)
        x = embed(self.model, self.bank, batch, self.generator)[0]
        text = self.model.model.language_model
        layers = Layers(AUX_LAYER, CODE_LAYER, FIND_LAYERS)
        result = recall_forward(text, x, text.embed_tokens(batch.words), batch, layers)
        learned = batch.targets >= 0
        logits = self.model.lm_head(result.states[learned])
        targets = batch.targets[learned]
        kinds = batch.kinds[:, None].expand_as(learned)[learned]
        self.recall.count(kinds, logits.detach().argmax(-1) == targets)
        loss = nn.functional.cross_entropy(logits, targets)
        loss = loss + RECALL_GUIDE * torch.stack(result.guided).sum() + FIND * torch.stack(result.far).sum()
        self.recall.guides.append([float(far.detach()) for far in result.guided])
        self.recall.found.append([float(hit) for hit in result.hits])
        if (batch.hours >= 0).any():
            heard = self.readers["asked_hour"](result.asking)
            loss = loss + 0.15 * nn.functional.cross_entropy(heard, batch.hours)
        return loss + self._read(result.middle, result.coded, batch.aux)

    def _read(self, middle: Tensor, coded: Tensor, aux: dict[str, Tensor]) -> Tensor:
        """The losses of the linear readers of each block's last token."""
        loss = torch.zeros(())
        for name in AUX_SIZES:
            logits = self.readers[name](middle).flatten(0, -2)
            loss = loss + 0.15 * nn.functional.cross_entropy(logits, aux[name].flatten())
        code: Tensor = (self.readers["codes"](coded).float() - codes(aux)).square().sum(-1).mean()
        self.code_errors.append(float(code.detach()))
        return loss + CODE_WEIGHT * code

    def _read_seconds(self, middle: Tensor, batch: Batch) -> Tensor:
        """Every token of a note knows early which second it is about, as blocks know theirs."""
        rows, places = (batch.seconds >= 0).nonzero(as_tuple=True)
        if not len(rows):
            return torch.zeros(())
        heard = self.readers["second"](middle[rows, batch.look_from[rows, places]])
        wanted = batch.seconds[rows, places]
        self.second_hits.append(float((heard.detach().argmax(-1) == wanted).float().mean()))
        return SECOND_WEIGHT * nn.functional.cross_entropy(heard, wanted)

    def _read_notes(self, coded: Tensor, batch: Batch) -> Tensor:
        """What notes list should count as what is seen does: the same codes."""
        rows, places = (batch.note_codes[..., 0] >= 0).nonzero(as_tuple=True)
        if not len(rows):
            return torch.zeros(())
        shape, colour = batch.note_codes[rows, places].T
        want = codes({"shape": shape + 1, "colour": colour + 1, "new": torch.ones_like(shape)})
        ends = coded[rows, batch.note_ends[rows, places]]
        error: Tensor = (self.readers["codes"](ends).float() - want).square().sum(-1).mean()
        self.note_errors.append(float(error.detach()))
        return CODE_WEIGHT * error

    def _report(self, done: int, total: int, seconds: float) -> None:
        means = f"loss {np.mean(self.losses):.3f} codes {np.mean(self.code_errors):.4f}"
        print(f"text: {done}/{total} {seconds:.0f} s {means} {self.clips}", flush=True)
        if self.recall.guides:
            print(f"text: recalled {self.recall}", flush=True)
        if self.notes.guides:
            heard = f"codes {np.mean(self.note_errors):.4f} seconds {np.mean(self.second_hits):.3f}"
            print(f"text: notes, {heard} {self.notes}", flush=True)
        self.losses, self.code_errors, self.note_errors, self.second_hits = [], [], [], []
        self.clips, self.recall, self.notes = Tally(), Tally(), Tally()
