"""A running question's hold on what it sees."""

from __future__ import annotations

from dataclasses import dataclass

from reasoner_svc.view.compose import ViewPlan
from reasoner_svc.view.recall import Recall


@dataclass(slots=True, eq=False)
class Lease:
    """Of the tokens in view, until `StreamRun.release`."""

    plan: ViewPlan
    recall: Recall | None = None
    """How older blocks come into view; None when there are none, or none are wanted."""
    since_us: int = 0
    """What ended by then is not in view."""
