"""Pure. How a run is laid out on Ray: its name there, its placement groups, and what each service is told.

What crosses Ray is text (`ServiceSpec.to_text`): nodes of another release never unpickle objects of ours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.backends.base import Wanted
from orchestrator.backends.local import command
from orchestrator.backends.ray_settings import RaySettings
from orchestrator.config import ServiceSettings
from orchestrator.membership import Role
from tandem.core.errors import InvalidInput
from tandem.wire.channel import is_loopback

PREFIX = "tandem-"
"""Of the names of all runs, and so of their namespaces and placement groups."""
_RUN = re.compile(PREFIX + r"[0-9a-f]{16}")
_TRACES = "OTEL_"
_ROLES = {Role.REASONER: "reasoners", Role.ENCODER: "encoders"}


def run_name(secret: bytes) -> str:
    """The run's name, which is its namespace on Ray: the same after every restart with its run directory."""
    return PREFIX + hmac.new(secret, b"the run's name on Ray", hashlib.sha256).hexdigest()[:16]


def run_of(group: str) -> str | None:
    """The run that a placement group belongs to, by its name; None: it is not one of ours."""
    run, dot, _ = group.partition(".")
    return run if dot and _RUN.fullmatch(run) else None


@dataclass(frozen=True, slots=True)
class Group:
    """One placement group: a bundle for each of its services."""

    name: str
    strategy: Literal["SPREAD", "STRICT_PACK"]
    members: tuple[Wanted, ...]
    bundle: tuple[tuple[str, float], ...]
    """What each service reserves."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """As Ray takes them, one for each member."""
        return [dict(self.bundle) for _ in self.members]


def bundle(settings: RaySettings, device: str) -> dict[str, float]:
    """What one service reserves: ``{"CPU": n}``, and ``"GPU"`` where it uses any."""
    gpus = settings.gpus if settings.gpus >= 0 else float(device.startswith("cuda"))
    return {"CPU": settings.cpus} | ({"GPU": gpus} if gpus else {})


def groups(run: str, wanted: Sequence[Wanted], settings: RaySettings, device: str) -> tuple[Group, ...]:
    """Where the services go.

    Those of a role are spread over the nodes: the loss of one takes as few of them as can be. With
    `pack_pairs` encoder and reasoner of the same number share a node; who has no partner is spread.
    """
    by_role = {role: [w for w in wanted if w.role is role] for role in _ROLES}
    needs = tuple(sorted(bundle(settings, device).items()))
    found = []
    pairs = min(map(len, by_role.values())) if settings.pack_pairs else 0
    for index in range(pairs):
        members = tuple(services[index] for services in by_role.values())
        found.append(Group(_name(run, f"pair-{index}", members, needs), "STRICT_PACK", members, needs))
    for role, services in by_role.items():
        if rest := tuple(services[pairs:]):
            found.append(Group(_name(run, _ROLES[role], rest, needs), "SPREAD", rest, needs))
    return tuple(found)


def _name(run: str, what: str, members: Sequence[Wanted], needs: Sequence[tuple[str, float]]) -> str:
    """Says the layout too, so that a group of another one is not taken for this."""
    layout = json.dumps([what, [m.name for m in members], list(needs)])
    return f"{run}.{what}.{hashlib.sha256(layout.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """What the actor of one service is told."""

    name: str
    role: str
    run: str
    group: str
    """Its placement group."""
    arguments: tuple[str, ...]
    """Of Python, to start the service; the node adds its own address and files."""
    secret: str = field(repr=False)
    """The cluster secret."""
    only_this_host: bool
    """The orchestrator is at a loopback address: the service listens on loopback too."""
    uses_gpu: bool
    orphan_s: float
    serves_metrics: bool = False
    """On any free port of its node."""
    environment: tuple[tuple[str, str], ...] = ()
    """The orchestrator's variables about traces: see `trace_environment`."""

    def to_text(self) -> str:
        """As it is sent."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> ServiceSpec:
        """Raises `InvalidInput` for what another release made."""
        try:
            given = json.loads(text)
            arguments = tuple(map(str, given["arguments"]))
            environment = tuple((str(name), str(value)) for name, value in given["environment"])
            return cls(**given | {"arguments": arguments, "environment": environment})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InvalidInput(f"not the spec of a service: {type(error).__name__}") from error

    @property
    def digest(self) -> str:
        """Short; differs when anything differs."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:16]


def specs(
    run: str,
    planned: Sequence[Group],
    orchestrator: str,
    secret: str,
    settings: ServiceSettings,
    ray: RaySettings,
    environment: Mapping[str, str],
) -> dict[str, ServiceSpec]:
    """What each service is told, by name. `orchestrator`: where they attach; `environment`: its own."""
    device = "cuda:0" if settings.device == "cuda" else settings.device
    settings = dataclasses.replace(settings, device=device)
    return {
        member.name: ServiceSpec(
            name=member.name,
            role=member.role.value,
            run=run,
            group=group.name,
            arguments=tuple(command(member, orchestrator, Path("of-the-node"), settings)[1:]),
            secret=secret,
            only_this_host=is_loopback(orchestrator),
            uses_gpu=any(name == "GPU" for name, _ in group.bundle),
            orphan_s=ray.orphan_s,
            serves_metrics=bool(settings.metrics),
            environment=tuple(sorted(trace_environment(environment).items())),
        )
        for group in planned
        for member in group.members
    }


def trace_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of all variables those that say whether, how and where traces are sent."""
    return {name: value for name, value in environment.items() if name.startswith(_TRACES)}


def own_arguments(spec: ServiceSpec, host: str) -> list[str]:
    """What a node adds to the arguments: `host` is the address that its services listen on."""
    at = f"[{host}]:0" if ":" in host else f"{host}:0"
    line = ["--listen", at, "--gloo-host", host]
    return [*line, "--metrics", at] if spec.serves_metrics else line


def check_reach(orchestrator: str, here: str, nodes: Collection[str]) -> None:
    """Every node must reach the orchestrator: raises `InvalidInput` when some cannot.

    `here` and `nodes` are IP addresses as Ray knows them: of this node, and of all.
    """
    others = sorted(set(nodes) - {here})
    if is_loopback(orchestrator) and others:
        raise InvalidInput(
            f"the services on {', '.join(others[:3])} cannot reach {orchestrator}: listen on an address of "
            f"this node that they reach, for example --listen {here}:7420 --insecure-network"
        )
