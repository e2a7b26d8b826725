"""What the `kubernetes` backend is told, and what it refuses to be told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from orchestrator.arguments import add_arguments, to_config
from orchestrator.backends.kubernetes_settings import KubernetesSettings, from_arguments, problems
from orchestrator.config import OrchestratorConfig
from tandem.core.errors import InvalidInput


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser, encoders=1, reasoners=1)
    return parser.parse_args(words)


def good(**changes: Any) -> KubernetesSettings:
    return KubernetesSettings(
        **({"release": "demo", "namespace": "video", "pod": "demo-orchestrator-0"} | changes)
    )


def test_a_pod_knows_who_and_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("from-the-account\n")
    environment = {"POD_NAME": "o-1", "HOSTNAME": "host"}
    args = parsed("--release", "demo")
    found = from_arguments(args, environment, tmp_path / "namespace")
    assert (found.pod, found.namespace, found.lease) == ("o-1", "from-the-account", "demo-orchestrator")
    found = from_arguments(args, {"POD_NAMESPACE": "told", "HOSTNAME": "host"}, tmp_path / "none")
    assert (found.pod, found.namespace) == ("host", "told")
    assert not problems("kubernetes", good())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": ""}, "--release"),
        ({"release": "Not A Name"}, "--release"),
        ({"release": "x" * 60}, "--release"),
        ({"namespace": ""}, "--namespace"),
        ({"pod": ""}, "--pod-name"),
        ({"lease_s": 0.5}, "--leader-seconds"),
        ({"lease_s": float("nan")}, "--leader-seconds"),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], words: str) -> None:
    (found,) = problems("kubernetes", good(**changes))
    assert words in found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--min-encoders", "0"), "--min-encoders 0"),
        (("--min-reasoners", "5", "--max-reasoners", "4"), "--min-reasoners 5 and --max-reasoners 4"),
        (("--lag-goal-seconds", "0"), "--lag-goal-seconds"),
        (("--first-token-goal-seconds", "nan"), "--first-token-goal-seconds"),
        (("--standby",), "--standby"),
    ],
)
def test_bad_options_are_named(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    base = ("--backend", "kubernetes", "--release", "demo", "--namespace", "v", "--pod-name", "p")
    with pytest.raises(InvalidInput, match=said):
        to_config(parsed(*base, *words, "--run-dir", str(tmp_path / "run")))


def test_options_of_pods_need_the_backend(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--autoscale is about Kubernetes"):
        to_config(parsed("--autoscale", "--run-dir", str(tmp_path / "run")))


def test_the_defaults_start_no_service(tmp_path: Path) -> None:
    config = OrchestratorConfig(run_dir=tmp_path / "run", backend="kubernetes", kubernetes=good())
    assert not config.kubernetes.autoscale
    assert config.kubernetes.encoders.least == 1
