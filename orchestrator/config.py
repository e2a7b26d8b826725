"""Pure. The orchestrator's settings, checked together: every problem is reported at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.backends.kubernetes_settings import problems as kubernetes_problems
from orchestrator.backends.ray_settings import RaySettings
from orchestrator.backends.ray_settings import problems as ray_problems
from orchestrator.backlog import Bounds
from orchestrator.limits import Limits
from orchestrator.memory import Memory
from orchestrator.memory import problems as memory_problems
from orchestrator.quotas import Quotas
from orchestrator.thinking import Thinking
from orchestrator.thinking import problems as thinking_problems
from tandem.core.addresses import listen_problem, split_address
from tandem.core.errors import InvalidInput
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import is_loopback, is_wildcard, parse_address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """What the services are started with, whatever starts them."""

    model: str = "default"
    revision: str = ""
    """Commit, tag or branch of the hub that the model is loaded at; empty: the newest."""
    device: str = "cpu"
    dtype: str = ""
    memory: Memory = field(default_factory=Memory)
    thinking: Thinking = field(default_factory=Thinking)
    window_units: int = 0
    """Sliding window of the encoder; 0: what the checkpoint was trained for."""
    decode_in: str = "process"
    """Where encoders decode media; see theirs."""
    threads: int = 0
    """Torch threads of each service; 0: its own choice."""
    tls: TlsFiles = NO_TLS
    """How they serve and call; the same files as of the orchestrator."""
    log_level: str = "info"
    log_format: str = "text"
    metrics: str = ""
    """Where the orchestrator's metrics are; those of the services are on the ports after it."""
    max_streams: int = 256
    """That the orchestrator lets in: a service must be able to hold them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrchestratorConfig:
    """Settings of one orchestrator process. Raises `InvalidInput` that names every problem."""

    listen: str = "127.0.0.1:7420"
    run_dir: Path
    """Secret, journal, logs and lock; private to one orchestrator."""
    insecure_network: bool = False
    """Allow a listener that other machines can reach, although nobody there has to show anything."""
    allow_wildcard: bool = False
    """Start although this process listens on every interface somewhere."""
    tls: TlsFiles = NO_TLS
    tokens: Path | None = None
    """File that says who may do what (`orchestrator/access.py`); None: everybody who can connect."""
    health: str = ""
    """Where probes find this process's health in plain text, host:port; empty: nowhere."""
    reflection: bool = False
    standby: bool = False
    """A second process of each service waits in reserve with its model loaded."""
    encoders: int = 1
    """To start; 0 when somebody else starts the services."""
    reasoners: int = 1
    backend: str = "local"
    """What they run on: `local`, `ray` or `kubernetes`."""
    ray: RaySettings = field(default_factory=RaySettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    secret_file: Path | None = None
    """With the cluster secret, where several orchestrators share it; None: the run directory has one."""
    services: ServiceSettings = field(default_factory=ServiceSettings)
    limits: Limits = field(default_factory=Limits)
    bounds: Bounds = field(default_factory=Bounds)
    max_streams: int = 256
    quotas: Quotas = field(default_factory=Quotas)
    """What each tenant may have."""
    heartbeat_s: float = 0.5
    lease_s: float = 3.0
    """Silence after which a service is lost: longer than any pause of a healthy one."""
    metrics: str = ""
    """Where Prometheus finds this process's metrics, host:port; empty: nowhere."""
    log_format: str = "text"
    """One of `tandem.core.logs.FORMATS`."""
    trace_frames_s: float = 10.0
    """Of each stream one frame in so many seconds is traced, where traces are on; 0: none."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise InvalidInput("\n".join(problems))


def _problems(config: OrchestratorConfig) -> list[str]:
    found = _listen_problems(config) + config.tls.problems()
    if config.health and (problem := listen_problem(config.health)):
        found.append(f"--health: {problem}")
    counts = {
        "encoders": (config.encoders, 0),
        "reasoners": (config.reasoners, 0),
        "max_streams": (config.max_streams, 1),
        "threads": (config.services.threads, 0),
        "window_units": (config.services.window_units, 0),
        "resume_seconds": (config.limits.resume_seconds, 1),
        "backlog_bytes": (config.bounds.max_bytes, config.limits.max_message_bytes),
    }
    found += [
        f"{name} is {value}, at least {least} is needed"
        for name, (value, least) in counts.items()
        if value < least
    ]
    seconds = {"heartbeat_s": config.heartbeat_s, "backlog_seconds": config.bounds.max_wait_s}
    for name, value in seconds.items():
        if not math.isfinite(value) or value <= 0:
            found.append(f"{name} is {value}, a time above 0 is needed")
    if not config.lease_s >= 3 * config.heartbeat_s:
        found.append(
            f"lease_s is {config.lease_s}, at least three heartbeats ({3 * config.heartbeat_s:g}) are needed"
        )
    found += _metrics_problems(config)
    if not 0 <= config.trace_frames_s < math.inf:
        found.append(f"--trace-frames is {config.trace_frames_s}, seconds of 0 or more are needed")
    if config.bounds.keep_us < 0:
        found.append(f"keep_seconds is {config.bounds.keep_us / 1e6}, at least 0 is needed")
    device = config.services.device
    found += ray_problems(config.backend, config.ray, device, standby=config.standby)
    found += kubernetes_problems(config.backend, config.kubernetes, standby=config.standby)
    found += memory_problems(config.services.memory) + thinking_problems(config.services.thinking)
    if config.run_dir.exists() and not config.run_dir.is_dir():
        found.append(f"run_dir {config.run_dir} is not a directory")
    return found


def warnings(config: OrchestratorConfig, address: str) -> list[str]:
    """What is allowed and should be known by whoever starts it; `address`: where it listens."""
    if is_loopback(address):
        return []
    found = []
    if not config.tls.serves:
        found.append("no TLS: what is watched, asked and answered, and tokens, can be read on the way")
    if config.tokens is None and not config.tls.is_mutual:
        found.append("no tokens: anyone who reaches this address can watch and ask")
    return found


def _metrics_problems(config: OrchestratorConfig) -> list[str]:
    if not config.metrics:
        return []
    if problem := listen_problem(config.metrics):
        return [f"--metrics: {problem}"]
    if config.backend == "ray":
        return []  # there they take any free one
    last = split_address(config.metrics)[1] + config.encoders + config.reasoners
    return [f"--metrics: {config.metrics} leaves no ports for those of the services"] if last > 65535 else []


def _listen_problems(config: OrchestratorConfig) -> list[str]:
    try:
        parse_address(config.listen)
    except InvalidInput as error:
        return [f"listen: {error.message}"]
    if is_wildcard(config.listen):
        return [f"listen: {config.listen} is every interface; name the one address to listen on"]
    is_guarded = config.tls.is_mutual or config.tokens is not None
    if not is_loopback(config.listen) and not is_guarded and not config.insecure_network:
        return [
            f"listen: other machines reach {config.listen} and could watch and ask: add --tokens (with "
            "--tls-cert and --tls-key), or --tls-ca besides these for callers with certificates, or "
            "--insecure if that network is trusted"
        ]
    return []
