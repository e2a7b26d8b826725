"""Pure. What the `kubernetes` backend is told: options, defaults, and what is wrong with them."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.autoscaling import Bounds
from orchestrator.scaling_needs import Goals

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds the name of its namespace."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")
"""Of a release: `NAME-encoder-100` must still be the name of a pod."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesSettings:
    """Where the pods are, how a leader is found, and how many pods there may be."""

    release: str = ""
    """Value of the label `app.kubernetes.io/instance`; the workloads are named after it."""
    namespace: str = ""
    """Empty: the pod's own."""
    kubeconfig: str = ""
    """A file for the API; empty: the pod's service account."""
    pod: str = ""
    """Name of this pod: the first half of its identity in the Lease."""
    advertise: str = ""
    """host:port where others reach this orchestrator; empty: where it listens."""
    lease_s: float = 10.0
    """A leader that was not heard of for so long is replaced."""
    alone: bool = False
    """No other orchestrator stands by: this one keeps the lead while the API does not answer."""
    pairs: bool = False
    """Each pod runs one encoder and one reasoner; bounds are those of reasoners then."""
    autoscale: bool = False
    encoders: Bounds = field(default_factory=Bounds)
    reasoners: Bounds = field(default_factory=Bounds)
    goals: Goals = field(default_factory=Goals)

    @property
    def lease(self) -> str:
        """Name of the Lease."""
        return f"{self.release}-orchestrator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, with their defaults."""
    group = parser.add_argument_group("pods of a Kubernetes release (docs/kubernetes-backend.md)")
    add, own = group.add_argument, KubernetesSettings()
    add("--release", default=own.release, help="name of the Helm release whose pods these are")
    add("--namespace", default=own.namespace, help="where they are (default: the pod's own namespace)")
    add("--kubeconfig", default=own.kubeconfig, metavar="FILE", help="default: the pod's service account")
    add("--pod-name", default=own.pod, help="name of this pod (default: $POD_NAME, or the host's name)")
    add(
        "--advertise",
        default=own.advertise,
        metavar="HOST:PORT",
        help="where others reach this orchestrator (default: where it listens)",
    )
    add(
        "--leader-seconds",
        type=float,
        default=own.lease_s,
        help="a leader that was not heard of for so long is replaced by another orchestrator (%(default)s)",
    )
    add(
        "--alone",
        action="store_true",
        help="no other orchestrator stands by: keep the lead while the Kubernetes API does not answer",
    )
    add("--pairs", action="store_true", help="pods run an encoder and a reasoner each, as RELEASE-pair")
    add("--autoscale", action="store_true", help="set the number of pods by load (docs/autoscaling.md)")
    for role in ("encoders", "reasoners"):
        bounds = getattr(own, role)
        add(f"--min-{role}", type=int, default=bounds.least, help="never fewer (%(default)s)")
        add(f"--max-{role}", type=int, default=bounds.most, help="never more (%(default)s)")
    add(
        "--lag-goal-seconds",
        type=float,
        default=own.goals.lag_s,
        help="streams that fall further behind call for more encoders (%(default)s)",
    )
    add(
        "--first-token-goal-seconds",
        type=float,
        default=own.goals.first_token_s,
        help="questions whose answer begins later call for more reasoners (%(default)s)",
    )


def from_arguments(
    args: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    namespace_file: Path = NAMESPACE_FILE,
) -> KubernetesSettings:
    """What was parsed; not checked yet."""
    return KubernetesSettings(
        release=args.release,
        namespace=args.namespace or environment.get("POD_NAMESPACE", "") or _text(namespace_file),
        kubeconfig=args.kubeconfig,
        pod=args.pod_name or environment.get("POD_NAME", "") or environment.get("HOSTNAME", ""),
        advertise=args.advertise,
        lease_s=args.leader_seconds,
        alone=args.alone,
        pairs=args.pairs,
        autoscale=args.autoscale,
        encoders=Bounds(least=args.min_encoders, most=args.max_encoders),
        reasoners=Bounds(least=args.min_reasoners, most=args.max_reasoners),
        goals=Goals(lag_s=args.lag_goal_seconds, first_token_s=args.first_token_goal_seconds),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def problems(backend: str, kube: KubernetesSettings, *, standby: bool = False) -> list[str]:
    """What is wrong, each with the option's name and what to do."""
    if backend != "kubernetes":
        given = {"--release": kube.release, "--kubeconfig": kube.kubeconfig, "--alone": kube.alone,
                 "--pairs": kube.pairs,
                 "--autoscale": kube.autoscale}  # fmt: skip
        return [
            f"{option} is about Kubernetes: give --backend kubernetes too"
            for option, value in given.items()
            if value
        ]
    found = []
    if not _NAME.fullmatch(kube.release):
        found.append(f"--release: {kube.release!r} is no name of a release; the chart passes .Release.Name")
    if not kube.namespace:
        found.append("--namespace: not in a pod, so say where the release is")
    if not kube.pod:
        found.append("--pod-name: $POD_NAME is not set, and the host has no name; say who this is")
    if standby:
        found.append("--standby is for --backend local; in a cluster, more pods stand by")
    if not math.isfinite(kube.lease_s) or kube.lease_s < 1:
        found.append(f"--leader-seconds is {kube.lease_s}, at least 1 is needed")
    for role, bounds in (("encoders", kube.encoders), ("reasoners", kube.reasoners)):
        if not 1 <= bounds.least <= bounds.most:
            found.append(
                f"--min-{role} {bounds.least} and --max-{role} {bounds.most}: 1 or more, and in order"
            )
    for option, value in (
        ("--lag-goal-seconds", kube.goals.lag_s),
        ("--first-token-goal-seconds", kube.goals.first_token_s),
    ):
        if not math.isfinite(value) or value <= 0:
            found.append(f"{option} is {value}, a time above 0 is needed")
    return found
