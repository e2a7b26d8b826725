"""The text model on a stream and, on what retrieval brings back of it, on questions.

As at evaluation every layer of a question sees the sink, the blocks whose mean keys its mean query likes
best, the newest blocks, and the question itself (ReKV, arXiv 2503.00540). So what training shows beside the
evidence are the near misses that the model itself would retrieve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tandem.shapes.batches import BLOCK_OFFSETS, SINK_PIECES, window_mask
from tandem.shapes.layout import BLOCK_SPAN, BLOCK_TOKENS
from tandem.shapes.looks import COUNTS, GUIDED
from tandem.shapes.moments import RETRIEVED
from tandem.shapes.network import rotate_half
from tandem.shapes.questions import KINDS
from tandem.shapes.recall_batches import CHUNK, RecallBatch

SINK = len(SINK_PIECES)
NEVER = -1e9
HOUR_HEAD = (1, 5)
"""Layer and head that takes hours to where they are needed: from a block's first token to its last, and from
the time asked about to the answer. Unguided, only minutes and seconds got there.
"""
Table = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layers:
    """Which layers are read by whom."""

    middle: int
    coded: int
    find: tuple[int, ...]


@dataclass
class Recalled:
    """What a pass over a RecallBatch gives."""

    states: Tensor  # [N, L, hidden] of the questions, normed
    middle: Tensor  # [P, hidden] each frame's last token after `aux_layer` layers
    asking: Tensor  # [N, hidden] there each question's last token, which answers
    coded: Tensor  # [P, hidden] the same as `code_layer`'s attention takes it
    guided: list[Tensor]  # per guided head that these questions have: how far it is from looking as it should
    far: list[Tensor]  # per layer that is to find: how far from finding the evidence
    hits: list[Tensor]  # and how often it does


def _turn(x: Tensor, tables: Table) -> Tensor:
    return x * tables[0] + rotate_half(x) * tables[1]


class _Places:
    """Cosines and sines of where things stand for a question: side by side, as the reasoner places them."""

    def __init__(self, text: Any, batch: RecallBatch) -> None:
        spans = (batch.recalled, batch.recent)
        self.sink, self.recalled, self.recent, self.own = _tables(text, 0, spans, batch.words.shape[1])


class _Chunks:
    """Blocks as they are encoded: each chunk sees the sink, the chunk before it and itself, in a window."""

    def __init__(self, text: Any, batch: RecallBatch) -> None:
        self.sink, self.before, self.own, _ = _tables(text, batch.gap, (CHUNK, CHUNK), 0)
        mask = torch.from_numpy(window_mask(2 * CHUNK, np.array([batch.window])))[0]
        mask = mask[:, -CHUNK * BLOCK_TOKENS :]
        chunks = batch.bank_rows.shape[1] // CHUNK
        self.mask = mask.repeat(chunks, 1, 1, 1)
        self.mask[0, ..., SINK : -CHUNK * BLOCK_TOKENS] = NEVER
        self.sink_mask = torch.full((SINK, SINK), NEVER).triu(1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Output [video, hidden] from raw queries, keys and values [heads, video, D]."""
        sink = nn.functional.scaled_dot_product_attention(
            _turn(q[:, :SINK], self.sink), _turn(k[:, :SINK], self.sink), v[:, :SINK], self.sink_mask
        )
        q, own, of_own = (_chunked(t) for t in (q, k, v))
        before, of_before = (torch.cat([t[:1], t[:-1]]) for t in (own, of_own))
        first = [t[None, :, :SINK].expand(len(q), -1, -1, -1) for t in (k, v)]
        keys = [_turn(first[0], self.sink), _turn(before, self.before), _turn(own, self.own)]
        seen = nn.functional.scaled_dot_product_attention(
            _turn(q, self.own), torch.cat(keys, 2), torch.cat([first[1], of_before, of_own], 2), self.mask
        )
        return torch.cat([sink, seen.transpose(0, 1).flatten(1, 2)], 1).transpose(0, 1).flatten(1)

    def from_hours(self, q: Tensor, k: Tensor) -> Tensor:
        """How far a head [video, D] is from looking from each block's last token at its hour."""
        asks = _turn(_chunked(q[None]), self.own)[:, 0, BLOCK_TOKENS - 1 :: BLOCK_TOKENS]
        own = _chunked(k[None])[:, 0]
        before = torch.cat([own[:1], own[:-1]])
        sink = _turn(k[:SINK], self.sink).expand(len(own), -1, -1)
        keys = torch.cat([sink, _turn(before, self.before), _turn(own, self.own)], 1)
        mask = self.mask[:, 0, BLOCK_TOKENS - 1 :: BLOCK_TOKENS]
        log = torch.log_softmax(asks @ keys.transpose(1, 2) * q.shape[-1] ** -0.5 + mask, -1)
        hours = log[..., -CHUNK * BLOCK_TOKENS :: BLOCK_TOKENS].diagonal(dim1=1, dim2=2)
        return -hours.clamp(min=-30).mean()


def _chunked(x: Tensor) -> Tensor:
    return torch.unflatten(x[:, SINK:], 1, (-1, CHUNK * BLOCK_TOKENS)).transpose(0, 1)


def _tables(text: Any, gap: int, blocks: tuple[int, int], after: int) -> list[Table]:
    """Tables for the sink, after a gap two runs of blocks, and so many tokens, all side by side."""
    base = SINK + gap + BLOCK_SPAN * torch.arange(sum(blocks))
    of_blocks = (base[None, :, None] + torch.from_numpy(BLOCK_OFFSETS)[:, None]).flatten(1)
    last = SINK + gap + BLOCK_SPAN * sum(blocks) + torch.arange(after)
    positions = torch.cat([torch.arange(SINK).expand(3, -1), of_blocks, last.expand(3, -1)], dim=1)
    cos, sin = text.rotary_emb(torch.zeros(1), positions[:, None])
    cuts = [SINK, *(BLOCK_TOKENS * count for count in blocks), after]
    return list(zip(cos[0].split(cuts), sin[0].split(cuts), strict=True))


def recall_forward(text: Any, x: Tensor, asked: Tensor, batch: RecallBatch, layers: Layers) -> Recalled:
    """An embedded stream `x` [video, hidden] and questions `asked` [N, L, hidden] through the text model."""
    places, chunks = _Places(text, batch), _Chunks(text, batch)
    result = Recalled(asked, x, asked, x, [], [], [])
    for number, layer in enumerate(text.layers):
        a, h, hq = layer.self_attn, layer.input_layernorm(x), layer.input_layernorm(asked)
        if number == layers.coded:
            result.coded = _ends(h)
        q, k, v = (_heads(m(h), a.head_dim) for m in (a.q_proj, a.k_proj, a.v_proj))
        qq, kq, vq = (_heads(m(hq), a.head_dim) for m in (a.q_proj, a.k_proj, a.v_proj))
        pool = tuple(_blocks(t) for t in (k, v))
        picks = _find(qq, pool[0], batch, result, number in layers.find)
        kq, vq = _assemble(places, pool, (k[:, :SINK], v[:, :SINK]), (kq, vq), picks, batch)
        qq = _turn(qq, places.own)
        result.guided += _guide(number, qq, kq, picks, batch)
        if number == HOUR_HEAD[0]:
            of_head = HOUR_HEAD[1] * kq.shape[1] // qq.shape[1]
            result.guided.append(_hear_hour(qq[:, HOUR_HEAD[1]], kq[:, of_head], batch))
        asked = asked + a.o_proj(_attend(qq, kq, vq))
        asked = asked + layer.mlp(layer.post_attention_layernorm(asked))
        if number + 1 == len(text.layers):
            break  # of the last layer's blocks a question sees keys and values alone
        k, v = (t.repeat_interleave(a.num_key_value_groups, dim=0) for t in (k, v))
        if number == HOUR_HEAD[0]:
            result.guided.append(chunks.from_hours(q[HOUR_HEAD[1]], k[HOUR_HEAD[1]]))
        x = x + a.o_proj(chunks.attend(q, k, v))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        if number + 1 == layers.middle:
            result.middle, result.asking = _ends(x), asked[torch.arange(len(asked)), batch.own.sum(1) + 2]
    result.states = text.norm(asked)
    return result


def _heads(x: Tensor, width: int) -> Tensor:
    return torch.unflatten(x, -1, (-1, width)).transpose(-2, -3)


def _blocks(x: Tensor) -> Tensor:
    """[heads, video, D] as blocks [P, heads, BLOCK_TOKENS, D]."""
    return torch.unflatten(x[:, SINK:], 1, (-1, BLOCK_TOKENS)).transpose(0, 1)


def _ends(x: Tensor) -> Tensor:
    """The last token of every frame [P, hidden]."""
    return x[SINK + BLOCK_TOKENS - 1 :: BLOCK_TOKENS]


def _find(q: Tensor, keys: Tensor, batch: RecallBatch, result: Recalled, learns: bool) -> Tensor:
    """Which older blocks come back for each question [N, recalled]; adds the loss of a layer that learns.

    Where a layer should find the evidence but does not, the evidence takes the place of its last choice:
    there is something to learn from a question only when its answer is in view.
    """
    heads = keys.shape[1]
    mean = (q * batch.own[:, None, :, None]).sum(2) / batch.own.sum(1)[:, None, None]
    query = torch.unflatten(mean, 1, (heads, -1)).sum(2).flatten(1)
    scores = query.float() @ keys.float().mean(2).flatten(1).T
    older = keys.shape[0] - batch.recent
    order = scores[:, :older].detach().clone()
    wanted = batch.wanted[:, :older]
    best = order.topk(batch.recalled, dim=-1).indices
    if learns:
        of_moments = batch.wanted.any(-1) & _of_kinds(batch, RETRIEVED)
        log = torch.log_softmax((scores * q.shape[-1] ** -0.5).masked_fill(batch.spared, NEVER), -1)
        far = -log.masked_fill(~batch.wanted, NEVER).logsumexp(-1)
        result.far.append(far[of_moments].sum() / of_moments.sum().clamp(min=1))
        missed = wanted.any(-1) & ~wanted.gather(1, best).any(-1) & ~batch.wanted[:, older:].any(-1)
        result.hits.append(1 - missed[of_moments].float().mean())
        first = order.masked_fill(~wanted, NEVER).argmax(-1)
        best[missed, -1] = first[missed]
    return best.sort(-1).values


def _assemble(
    places: _Places,
    pool: tuple[Tensor, ...],
    sink: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    picks: Tensor,
    batch: RecallBatch,
) -> tuple[Tensor, Tensor]:
    """Turned keys, and values, of what each question sees: sink, recalled, recent, itself."""
    recalled = [t[picks].transpose(1, 2).flatten(2, 3) for t in pool]
    recent = [t[-batch.recent :].transpose(0, 1).flatten(1, 2) for t in pool]
    keys = [_turn(sink[0], places.sink), _turn(recalled[0], places.recalled)]
    keys += [_turn(recent[0], places.recent), _turn(own[0], places.own)]
    values = [sink[1], recalled[1], recent[1], own[1]]
    each = (len(picks), -1, -1, -1)
    return torch.cat([t.expand(each) for t in keys], 2), torch.cat([t.expand(each) for t in values], 2)


def _later(length: int, keys: int) -> Tensor:
    """Added to scores [length, keys] of a question, whose own tokens are the last keys: it is causal."""
    return nn.functional.pad(torch.full((length, length), NEVER).triu(1), (keys - length, 0))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Output [N, L, hidden] of queries [N, heads, L, D]; the heads of a group are rows of one head."""
    groups = q.shape[1] // k.shape[1]
    mask = _later(q.shape[2], k.shape[2]).repeat(groups, 1)
    grouped = torch.unflatten(q, 1, (-1, groups)).flatten(2, 3)
    out = nn.functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask)
    return torch.unflatten(out, 2, (groups, -1)).flatten(1, 2).transpose(1, 2).flatten(2)


def _guide(layer: int, q: Tensor, k: Tensor, picks: Tensor, batch: RecallBatch) -> list[Tensor]:
    """How far this layer's guided heads are from looking at the evidence in view, evenly (else: the sink)."""
    older = batch.wanted.shape[1] - batch.recent
    shown = torch.cat([batch.wanted[:, :older].gather(1, picks), batch.wanted[:, older:]], dim=1).float()
    none = ~batch.wanted.any(-1, keepdim=True)
    want = torch.cat([none, shown], dim=1)
    want = want / want.sum(1, keepdim=True).clamp(min=1)
    out = []
    for guided_layer, head, kinds, _ in GUIDED:
        if guided_layer != layer or kinds is COUNTS:
            continue
        at = (_of_kinds(batch, kinds) & (want.sum(1) > 0)).nonzero()[:, 0]
        scores = q[at, head] @ k[at, head * k.shape[1] // q.shape[1]].transpose(1, 2) * q.shape[-1] ** -0.5
        log = torch.log_softmax(scores.float() + _later(*scores.shape[1:]), dim=-1)
        blocks = log[..., SINK + BLOCK_TOKENS - 1 : -q.shape[2] : BLOCK_TOKENS]
        log = torch.cat([log[..., :1], blocks], dim=-1).clamp(min=-30)
        far = -(want[at, None] * log).sum(-1) - torch.special.entr(want[at]).sum(-1)[:, None]
        learned = batch.targets[at] >= 0
        out.append((far * learned).sum() / learned.sum().clamp(min=1))
    return out


def _hear_hour(q: Tensor, k: Tensor, batch: RecallBatch) -> Tensor:
    """How far a head [N, L, D] that answers is from looking at the hour asked about (else: the sink)."""
    at = _of_kinds(batch, frozenset({"shown_at"})).nonzero()[:, 0]
    scores = q[at] @ k[at].transpose(1, 2) * q.shape[-1] ** -0.5
    log = torch.log_softmax(scores.float() + _later(*scores.shape[1:]), dim=-1)
    hour = batch.hour_at[at]
    place = torch.where(hour < 0, torch.zeros_like(hour), k.shape[1] - q.shape[1] + hour)
    far = -log.gather(2, place[:, None, None].expand(-1, q.shape[1], 1))[..., 0].clamp(min=-30)
    learned = batch.targets[at] >= 0
    return (far * learned).sum() / learned.sum().clamp(min=1)


def _of_kinds(batch: RecallBatch, kinds: frozenset[str]) -> Tensor:
    return torch.isin(batch.kinds, torch.tensor([KINDS.index(kind) for kind in KINDS if kind in kinds]))
