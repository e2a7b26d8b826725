"""Dashboards, alerts and scalers ask only for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from encoder_svc.metrics import METRICS as ENCODER
from orchestrator.membership import Standing
from orchestrator.metrics import METRICS as ORCHESTRATOR
from reasoner_svc.metrics import METRICS as REASONER
from tandem.core.meters import Kind, Metric
from tests.chart.rendering import CHART, CI_FILES, ROOT, render_file

DASHBOARDS = sorted((CHART / "dashboards").glob("*.json"))
KNOWN: dict[str, list[Metric]] = {}
for metric in (*ORCHESTRATOR, *ENCODER, *REASONER):
    KNOWN.setdefault(metric.name, []).append(metric)
OF_TARGETS = {"namespace", "pod", "container", "instance", "le"}
"""Labels that a Prometheus in Kubernetes adds, and that of buckets."""
BUILT_IN = {"tandem_build_info": {"role", "model", "version"}}
SUFFIX = re.compile(r"_(bucket|sum|count)$")
USE = re.compile(r"\b((?:tandem|process)_[a-z0-9_]+|up)\b\s*(?:\{([^}]*)\})?")
GROUPS = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")


def labels_of(name: str) -> set[str]:
    """Labels that every metric of this name has. Raises AssertionError for one that nobody has."""
    if name == "up" or name.startswith("process_"):
        return set()
    if name in BUILT_IN:
        return BUILT_IN[name]
    base = SUFFIX.sub("", name)
    metrics = KNOWN.get(base if base in KNOWN else name)
    assert metrics, f"{name} is no metric"
    is_histogram = metrics[0].kind is Kind.HISTOGRAM
    assert is_histogram == (base != name), f"{name}: a histogram is asked for by _bucket, _sum or _count"
    return set.union(*(set(metric.labels) for metric in metrics))


def check(expression: str) -> set[str]:
    """The metrics of a PromQL expression, all known."""
    assert expression.count("(") == expression.count(")")
    uses = USE.findall(re.sub(GROUPS, " ", expression))
    assert uses, expression
    known: set[str] = set(OF_TARGETS)
    for name, selector in uses:
        own = labels_of(name) | OF_TARGETS
        known |= own
        asked = set(re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"', selector))
        assert asked <= own, f"{name} has no labels {asked - own}"
        assert "namespace" in asked, f"{name}: of every namespace"
    for group in GROUPS.findall(expression):
        asked = {part.strip() for part in group.split(",") if part.strip()}
        assert asked <= known, f"{expression}: no labels {asked - known}"
    if "histogram_quantile" in expression:
        assert re.search(r"by \(le\b", expression)
    return {SUFFIX.sub("", name) if SUFFIX.sub("", name) in KNOWN else name for name, _ in uses}


def expressions(path: Path) -> Iterator[tuple[str, str, str]]:
    """Panel, expression and legend."""
    for panel in json.loads(path.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_asks_for_what_exists(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == f"tandem-{path.stem}"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) >= 10
    for title, expression, legend in expressions(path):
        check(expression)
        grouped = {part.strip() for group in GROUPS.findall(expression) for part in group.split(",")}
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= grouped, f"{title}: {legend}"


def test_every_metric_is_on_a_dashboard_or_known_not_to_be() -> None:
    """The other way round: what is measured is looked at."""
    shown = {
        name for path in DASHBOARDS for _, expression, _ in expressions(path) for name in check(expression)
    }
    assert set(KNOWN) - shown == {
        "tandem_encode_batches_total",
        "tandem_encode_failures_total",
        "tandem_encoder_links",
        "tandem_encoder_slowed_streams",
        "tandem_reasoner_links",
        "tandem_reasoner_watched_streams",
        "tandem_tokens_per_frame",
    }


def test_alerts_ask_for_what_exists() -> None:
    (rule,) = render_file(CHART / "ci/observed-values.yaml").of("PrometheusRule")
    (group,) = rule["spec"]["groups"]
    names = [each["alert"] for each in group["rules"]]
    assert len(names) == len(set(names)) >= 9
    for each in group["rules"]:
        check(each["expr"])
        assert each["labels"]["severity"] in {"warning", "critical"}
        assert each["annotations"]["summary"]
        asked = set(re.findall(r"\$labels\.(\w+)", str(each["annotations"])))
        by = {part.strip() for grouped in GROUPS.findall(each["expr"]) for part in grouped.split(",")}
        assert asked <= by | ({"pod"} if each["alert"] == "TandemScrapeFails" else set()), each["alert"]


def test_alerts_look_for_values_that_labels_take() -> None:
    text = str(list(render_file(CHART / "ci/observed-values.yaml").of("PrometheusRule")))
    from encoder_svc import metrics as encoder
    from tandem.wire.gen.tandem.v1 import types_pb2

    ends = {
        name.removeprefix("FINISH_REASON_").lower()
        for name in types_pb2.FinishReason.DESCRIPTOR.values_by_name
    }
    assert set(re.findall(r'tandem_questions_total\{[^}]*outcome="(\w+)"', text)) == {"error"} <= ends
    assert set(re.findall(r'tandem_services\{[^}]*outcome="(\w+)"', text)) == {Standing.READY.value}
    help_of_overload = next(each.help for each in encoder.METRICS if each.name == "tandem_encoder_overload")
    for value in ("late", "gaps"):
        assert value in help_of_overload


def test_scalers_ask_for_what_exists() -> None:
    asked = set()
    for path in CI_FILES:
        rendered = render_file(path)
        for each in rendered.of("HorizontalPodAutoscaler"):
            asked |= {metric["pods"]["metric"]["name"] for metric in each["spec"]["metrics"]}
        for each in rendered.of("ScaledObject"):
            for trigger in each["spec"]["triggers"]:
                asked |= {name for name, _ in USE.findall(trigger["metadata"]["query"])}
    assert {"tandem_encoder_streams", "tandem_reasoner_streams"} <= asked
    for name in asked:
        labels_of(name)


def test_dashboards_are_shipped_as_they_are() -> None:
    rendered = render_file(CHART / "ci/observed-values.yaml")
    for path in DASHBOARDS:
        shipped = rendered.named("ConfigMap", f"video-dashboard-{path.stem}")
        assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(shipped["data"][f"tandem-{path.stem}.json"]) == json.loads(path.read_text())


def test_the_check_finds_what_is_wrong() -> None:
    for wrong in (
        'rate(tandem_no_such_total{namespace="x"}[5m])',
        'sum by (stream) (tandem_kv_blocks{namespace="x"})',
        'tandem_kv_blocks{namespace="x",outcome="y"}',
        'rate(tandem_frame_lag_seconds{namespace="x"}[5m])',
        "sum(tandem_kv_blocks)",
    ):
        with pytest.raises(AssertionError):
            check(wrong)


def test_alerts_are_about_the_pods_of_their_own_release() -> None:
    """Another one in the namespace may have a name that begins with this one's."""
    rendered = render_file(CHART / "ci/observed-values.yaml")
    (rules,) = rendered.of("PrometheusRule")
    for rule in rules["spec"]["groups"][0]["rules"]:
        for name, selector in USE.findall(re.sub(GROUPS, " ", rule["expr"])):
            (pods,) = re.findall(r'pod=~"([^"]*)"', selector)
            assert 'namespace="cameras"' in selector, name
            for role in ("orchestrator", "encoder", "reasoner", "pair"):
                assert re.fullmatch(pods, f"video-{role}-12")
                assert not re.fullmatch(pods, f"video-two-{role}-12")


def test_every_alert_is_in_the_table_of_troubles() -> None:
    """Whoever is woken by one finds there what to do."""
    told = (ROOT / "docs/operating.md").read_text()
    (rules,) = render_file(CHART / "ci/observed-values.yaml").of("PrometheusRule")
    assert [r["alert"] for r in rules["spec"]["groups"][0]["rules"] if f"`{r['alert']}`" not in told] == []


def test_that_nobody_leads_is_noticed_when_nobody_is_there() -> None:
    """Without a series there would be nothing to compare, and no alert."""
    rendered = render_file(CHART / "ci/observed-values.yaml")
    (rules,) = rendered.of("PrometheusRule")
    (leads,) = (r for r in rules["spec"]["groups"][0]["rules"] if r["alert"] == "TandemNobodyLeads")
    assert re.fullmatch(r"\(sum\(tandem_leader\{.*\}\) or vector\(0\)\) < 1", leads["expr"])
