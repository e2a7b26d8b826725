"""Losses of attention: guided heads that look where they should, heads that count, retrieval that finds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tandem.shapes.batches import Batch
from tandem.shapes.layout import BLOCK_TOKENS
from tandem.shapes.looks import COUNTS, GUIDED

GUIDE, COUNT_GUIDE, FIND = 0.2, 0.3, 0.3  # weights of the losses of guided heads and of retrieval
MOST = 5.0  # what is counted too much costs less from about here


def look_losses(layer: int, q: Tensor, k: Tensor, batch: Batch) -> list[Tensor]:
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
        at = (batch.note_ends.clamp(min=0) + batch.video)[:, None].expand(-1, place.shape[1], -1)
        listed = log.gather(2, at).masked_fill(batch.note_ends[:, None] < 0, -30)
        log = torch.cat([log[..., :1], ends, listed, own], dim=-1).clamp(min=-30)
        want = batch.look_at[:, number]
        guided = (batch.look_from >= 0) & (want.sum(-1) > 0)
        if kinds is COUNTS:
            far = COUNT_GUIDE * count_error(log[guided], want[guided], float(tell))
        else:
            far = GUIDE * (-(want * log).sum(-1) - torch.special.entr(want).sum(-1))[guided]
        out.append(far.sum() / guided.sum().clamp(min=1))
    return out


def count_error(log: Tensor, want: Tensor, own_weight: float) -> Tensor:
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
    astray = (log.exp().sum(-1) - log[:, -1].exp() - (log.exp() * counted).sum(-1)).clamp(min=0)
    astray = astray + (1 - log.exp().sum(-1)).clamp(min=0)
    extra = astray.clamp(min=1e-9).log() - log[:, -1] + math.log(own_weight)
    # MOST * log(1 + extra / MOST): about `extra` while that is small, and never without a slope, as a bound
    # would be, that a fresh model with its even attention could not leave.
    return (uneven * counted).sum(-1) + MOST * nn.functional.softplus(extra - math.log(MOST))


def find_loss(q: Tensor, k: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
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
