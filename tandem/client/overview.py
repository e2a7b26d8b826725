"""Pure: what runs and what is watched, as an operator sees it; frozen dataclasses like those of `types`."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.client.types import ModelInfo, Progress
from tandem.core.watching import WatchMode


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSummary:
    """One stream, as an operator sees it."""

    stream_id: str
    state: str
    progress: Progress
    encoder: str
    reasoner: str
    open_questions: int
    sample_fps: float
    age_s: float
    backlog_bytes: int
    attached: bool
    """True while a client feeds it."""
    watching: WatchMode = WatchMode.OFF
    last_note: int = 0
    """Number of its last finished note; 0: none."""
    standing_questions: int = 0
    tenant: str = ""
    """Whose it is."""
    placed_because: str = ""
    """Why it is on its encoder and reasoner; empty before it was placed."""
    epoch: int = 0
    """Grows each time it is placed anew."""
    last_error: str = ""
    """What broke last; empty: nothing did."""
    last_error_age_s: float = 0.0
    blocks_per_s: float = 0.0
    """Visual blocks published a second, over the last ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """Build and boot of a process."""

    version: str
    boot_id: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """One service, as the orchestrator sees it."""

    name: str
    role: str
    address: str
    state: str
    build: BuildInfo
    model: ModelInfo
    restarts: int
    heartbeat_age_ms: float
    streams: int
    details: dict[str, str]
    load: float = 0.0
    """How much of it is used; 1 is all, 0 where it has not told."""
    reason: str = ""
    """Why it is in this state."""
    last_loss: str = ""
    """Why it was lost the last time; empty: it never was."""
    last_loss_age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionDecision:
    """What became of one attempt to open a stream."""

    stream_id: str
    tenant: str
    outcome: str
    """"admitted", "degraded" (at a lower rate than asked for) or "refused"."""
    reason: str
    age_s: float
    retry_after_s: float = 0.0
    """What a refused client was told to wait; 0: waiting does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingDecision:
    """One decision on the number of pods of a role."""

    role: str
    action: str
    """"hold", "up", "drain" (a pod is emptied), "undo" (it takes streams again) or "down"."""
    replicas: int
    """Pods that there should be after it."""
    reason: str
    pod: str
    """Whom "drain", "undo" and "down" are about."""
    age_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What runs behind one address."""

    build: BuildInfo
    services: tuple[ServiceStatus, ...]
    listeners: tuple[str, ...]
    decisions: tuple[AdmissionDecision, ...] = ()
    """The latest on new streams, oldest first."""
    scaling: tuple[ScalingDecision, ...] = ()
    """The latest on the number of pods, of each role; empty where they are not scaled from here."""
    term: int = 0
    """Of an orchestrator that was elected; 0: there is no election."""

    @property
    def ready(self) -> bool:
        """True when at least one encoder and one reasoner are ready."""
        ready = {service.role for service in self.services if service.state == "ready"}
        return {"encoder", "reasoner"} <= ready
