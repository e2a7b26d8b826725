"""Shell. What a reasoner brings to thinking beside the model: files that policies need, read at start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reasoner_svc.thinking.head_scores import load_head_scores
from reasoner_svc.thinking.heads import Scores
from reasoner_svc.thinking.probe import Probe, load_probe

if TYPE_CHECKING:
    from tandem.vlm.model import VisionLanguageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingTools:
    """None of them: questions that want it are refused."""

    probe: Probe | None = None
    head_scores: Scores | None = None


NO_TOOLS = ThinkingTools()


def load_tools(probe: str, head_scores: str, model: VisionLanguageModel) -> ThinkingTools:
    """Read what is named; empty: it is not there. Raises InvalidInput that names file and mistake."""
    layout = model.layout
    return ThinkingTools(
        probe=load_probe(probe, model.embed([0]).shape[1], model.fingerprint) if probe else None,
        head_scores=load_head_scores(head_scores, layout.layers, layout.kv_heads) if head_scores else None,
    )
