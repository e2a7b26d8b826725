# ruff: noqa: N803, N806 (shape suffixes)
"""Tensor ring: what attention over a view means, in plain torch. Slow; the standard for the other backends.

Independent of how a plan splits reads: it walks the views themselves, builds every mask explicitly and
takes one float32 softmax per query over all that the query sees. Shapes: T tokens of one step, M keys of
one part, Q query heads, H key/value heads, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.vlm.plan import Plan, relative
from tandem.vlm.retrieved import LayeredSegment
from tandem.vlm.rope import Rope, turn
from tandem.vlm.view import Part, View


class Reference:
    """Explicit masks, one softmax."""

    name = "reference"

    def attend(
        self, plan: Plan, layer: int, query_THD: Tensor, key_THD: Tensor, value_THD: Tensor, scale: float
    ) -> Tensor:
        """See `base.Backend`."""
        outputs, lse = [], []
        for reader in plan.readers:
            query = query_THD[reader.token : reader.token + reader.tokens]
            output, own = _attend_view(plan.rope, reader.view, layer, query, reader.positions_3N, scale)
            outputs.append(output)
            lse.append(own)
        plan.lse_TQ = torch.cat(lse)
        return torch.cat(outputs)


def _attend_view(
    rope: Rope, view: View, layer: int, query_TQD: Tensor, positions_3T: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output [T, Q, D] and log-sum-exp [T, Q]."""
    scores, values = [], []
    for part in (*view.parts, view.tail):
        causal = part is view.tail
        score_QTM, value_QMD = _score(rope, part, layer, query_TQD, positions_3T, scale, causal)
        scores.append(score_QTM)
        values.append(value_QMD)
    score_QTM = torch.cat(scores, -1)
    output_QTD = score_QTM.softmax(-1) @ torch.cat(values, 1)
    return output_QTD.transpose(0, 1).to(query_TQD.dtype), score_QTM.logsumexp(-1).T


def _score(
    rope: Rope, part: Part, layer: int, query_TQD: Tensor, positions_3T: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    tokens = query_TQD.shape[0]
    if isinstance(part.segment, LayeredSegment):
        columns, numbers_M, now_end = part.segment.columns(0, 0), torch.arange(part.segment.tokens(layer)), 0
    else:
        now = part.segment.snapshot()
        end = now.end + tokens if causal else now.end if part.end is None else part.end
        columns, numbers_M, now_end = now.columns(now.start, end), torch.arange(now.start, end), now.end
    key_HMD, value_HMD = (side[layer].float() for side in columns)
    turned = turn(
        query_TQD.float(),
        *(
            table[:, None]
            for table in rope.tables(relative(positions_3T, part.base, 0, tokens), query_TQD.device)
        ),
    )
    groups = query_TQD.shape[1] // key_HMD.shape[0]
    key_QMD, value_QMD = key_HMD.repeat_interleave(groups, 0), value_HMD.repeat_interleave(groups, 0)
    visible_TM = torch.ones(tokens, len(numbers_M), dtype=torch.bool)
    if part.first_visible is not None:
        visible_TM &= numbers_M >= part.first_visible[:, None].cpu()
    if causal:
        visible_TM &= numbers_M <= now_end + torch.arange(tokens)[:, None]
    score_QTM = turned.transpose(0, 1) @ key_QMD.transpose(1, 2) * scale
    if part.heads is not None:
        sees_H = torch.zeros(key_HMD.shape[0], dtype=torch.bool, device=score_QTM.device)
        for first, end in part.heads[layer]:
            sees_H[first:end] = True
        blind_Q = ~sees_H.repeat_interleave(groups)
        score_QTM = score_QTM.masked_fill(blind_Q[:, None, None], -torch.inf)
    return score_QTM.masked_fill(~visible_TM.to(score_QTM.device), -torch.inf), value_QMD
