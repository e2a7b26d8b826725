"""Pure. The pods of a release as a watch tells of them: who should run, who does not, and why.

What comes from the API is foreign: a field that is missing or of another kind counts as not there. Versions
are compared as numbers, as Kubernetes allows since 1.35 and all servers have always made them; what is older
than what was seen already is never taken for the present.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.base import Wanted
from orchestrator.membership import Role
from tandem.core.ids import is_valid_id

INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"
PAIR = "pair"
"""Component of pods that run one service of each role."""
MAX_PODS = 10_000
"""More of one release are not followed."""
_MAX_WORDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What is of use of one."""

    name: str
    role: Role | None
    """None: it runs a service of each."""
    uid: str
    version: int
    phase: str = ""
    ip: str = ""
    is_ready: bool = False
    is_leaving: bool = False
    """It was deleted, and has its grace."""
    trouble: str = ""
    """Why it does not run; empty: nothing is known against it."""
    ending: str = ""
    """How its last container ended."""
    restarts: int = 0

    @property
    def services(self) -> tuple[Wanted, ...]:
        """What runs in it: under its own name, or with the role behind that where there are two."""
        return services_of(self.name, self.role)

    @property
    def number(self) -> int:
        """Its number in its StatefulSet; -1: it is not of one."""
        tail = self.name.rpartition("-")[2]
        return int(tail) if tail.isascii() and tail.isdecimal() else -1


def services_of(pod: str, role: Role | None) -> tuple[Wanted, ...]:
    """What runs in a pod of a role, or of a pair, by the pod's name."""
    if role is not None:
        return (Wanted(pod, role),)
    return tuple(Wanted(f"{pod}-{each.value}", each) for each in Role)


def selector(release: str) -> str:
    """Of the pods that run encoders and reasoners of a release."""
    components = ",".join((*(role.value for role in Role), PAIR))
    return f"{INSTANCE}={release},{COMPONENT} in ({components})"


def workload(release: str, role: Role | None) -> str:
    """Name of the StatefulSet of a role; None: of pairs."""
    return f"{release}-{PAIR if role is None else role.value}"


def names(release: str, role: Role | None, replicas: int) -> tuple[Wanted, ...]:
    """The services that a StatefulSet of so many pods runs; they are named after the pods."""
    pods = (f"{workload(release, role)}-{number}" for number in range(replicas))
    return tuple(each for pod in pods for each in services_of(pod, role))


def pod_of(item: Mapping[str, Any]) -> Pod | None:
    """What an object of the API says, or None where it is no pod of ours."""
    meta, status = _part(item, "metadata"), _part(item, "status")
    name, component = meta.get("name"), _part(meta, "labels").get(COMPONENT)
    if not isinstance(name, str) or not is_valid_id(name) or not isinstance(component, str):
        return None
    if component not in {*Role, PAIR}:
        return None
    conditions = _parts(status, "conditions")
    containers = _parts(status, "containerStatuses")
    return Pod(
        name=name,
        role=None if component == PAIR else Role(component),
        uid=str(meta.get("uid", "")),
        version=version_of(item),
        phase=str(status.get("phase", "")),
        ip=str(status.get("podIP", "")),
        is_ready=any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions),
        is_leaving=bool(meta.get("deletionTimestamp")),
        trouble=_trouble(conditions, containers),
        ending=_ending(containers),
        restarts=max((_count(each.get("restartCount")) for each in containers), default=0),
    )


def version_of(item: Mapping[str, Any]) -> int:
    """The version of an object or a list; -1 where it is no number."""
    return _count(_part(item, "metadata").get("resourceVersion"), -1)


class PodTable:
    """All pods of a release, as far as is known. Owned by the event loop."""

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self.version = 0
        """Up to which everything is known; 0: nothing is."""

    @property
    def pods(self) -> tuple[Pod, ...]:
        """By name."""
        return tuple(self._pods[name] for name in sorted(self._pods))

    def find(self, name: str) -> Pod | None:
        """The pod of that name."""
        return self._pods.get(name)

    def listed(self, items: Iterable[Mapping[str, Any]], version: int, *, anew: bool = False) -> bool:
        """A whole list. False when it is older than what is known: then nothing changes.

        `anew`: it is the present whatever its version, because the server's own went back.
        """
        if version < self.version and not anew:
            return False
        found = (pod_of(item) for item in items)
        self._pods = {pod.name: pod for pod in found if pod is not None}
        for name in list(self._pods)[MAX_PODS:]:
            del self._pods[name]
        self.version = version
        return True

    def event(self, kind: str, item: Mapping[str, Any]) -> Pod | None:
        """One change. Returns the pod it is about, as it is now, or was last; None: nothing changed."""
        version = version_of(item)
        if version <= self.version:
            return None  # told twice, or out of the past
        self.version = version
        pod = pod_of(item)
        if pod is None or kind == "BOOKMARK":
            return None
        if kind == "DELETED":
            known = self._pods.get(pod.name)
            if known is not None and known.uid == pod.uid:
                del self._pods[pod.name]
            return pod
        if len(self._pods) < MAX_PODS or pod.name in self._pods:
            self._pods[pod.name] = pod
        return pod

    def top(self, role: Role | None) -> Pod | None:
        """The pod of a role, or of pairs, with the highest number: the one that goes first."""
        numbered = [pod for pod in self._pods.values() if pod.role is role and pod.number >= 0]
        return max(numbered, key=lambda pod: pod.number, default=None)


def _trouble(conditions: list[Mapping[str, Any]], containers: list[Mapping[str, Any]]) -> str:
    for each in conditions:
        if each.get("type") == "PodScheduled" and each.get("status") == "False":
            return _words(each.get("reason"), each.get("message"))
    for each in containers:
        waiting = _part(_part(each, "state"), "waiting")
        if waiting and waiting.get("reason") != "ContainerCreating":
            return _words(waiting.get("reason"), waiting.get("message"))
    return ""


def _ending(containers: list[Mapping[str, Any]]) -> str:
    for each in containers:
        for state in ("state", "lastState"):
            ended = _part(_part(each, state), "terminated")
            if ended:
                return _words(ended.get("reason"), f"exit status {ended.get('exitCode')}")
    return ""


def _words(reason: object, message: object) -> str:
    return ": ".join(str(part) for part in (reason, message) if part)[:_MAX_WORDS]


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _parts(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = value.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _count(value: object, otherwise: int = 0) -> int:
    if isinstance(value, int):
        return value
    text = value if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else otherwise
