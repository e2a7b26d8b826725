"""Every metric follows the rules, and the documents list each as it is declared."""

from __future__ import annotations

import re

import pytest

from encoder_svc.metrics import METRICS as ENCODER
from orchestrator.metrics import METRICS as ORCHESTRATOR
from reasoner_svc.metrics import METRICS as REASONER
from tandem.core.meters import Metric, counter, gauge, histogram, problems
from tests.guards.product import ROOT

ROLES = {"orchestrator": ORCHESTRATOR, "encoder": ENCODER, "reasoner": REASONER}


@pytest.mark.parametrize("role", ROLES)
def test_metrics_follow_the_rules(role: str) -> None:
    assert problems(ROLES[role]) == []


def test_the_rules_find_what_breaks_them() -> None:
    wrong = [
        gauge("tandem_streams_total", "Words."),
        counter("other_total", "Words.", "stream"),
        histogram("tandem_x_seconds", "Words", ()),
        gauge("tandem_y", "Words."),
        gauge("tandem_y", "Words."),
    ]
    text = "\n".join(problems(wrong))
    for part in ("only they, end with _total", "begin with tandem_", "labels stream", "have buckets",
                 "no sentence", "tandem_y is declared twice"):  # fmt: skip
        assert part in text
    assert len(problems(wrong)) == 6


def row(metric: Metric) -> str:
    labels = ", ".join(metric.labels) or "-"
    return f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |"


@pytest.mark.parametrize("role", ROLES)
def test_the_table_lists_every_metric_as_it_is(role: str) -> None:
    text = (ROOT / "docs/observability.md").read_text()
    section = re.split(r"^### ", text, flags=re.MULTILINE)
    tables = {part.split("\n", 1)[0].strip().lower(): part for part in section[1:]}
    listed = [line for line in tables[role].splitlines() if line.startswith("| `tandem_")]
    assert listed == [row(metric) for metric in ROLES[role]]
