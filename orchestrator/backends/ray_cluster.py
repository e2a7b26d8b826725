"""Shell: a connection to Ray, as far as the backend needs it. Decides nothing.

Every method may block for as long as its timeout, or as long as Ray does; all are called from one thread.
Ray is imported here and in `ray_groups.py`, `ray_actor.py` and `ray_head.py`, nowhere else, and late.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.backends import ray_groups
from orchestrator.backends.ray_groups import GroupState
from orchestrator.backends.ray_plan import Group, ServiceSpec
from tandem.core.errors import Incompatible, PermissionRefused, TandemError, Unavailable

log = logging.getLogger(__name__)

LEAST_VERSION = (2, 52)
"""The first Ray with token authentication."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an actor said."""

    digest: str
    said: tuple[str, ...]
    node: str
    ending: str = ""
    """How the last process of its service there ended; empty: none did."""


@dataclass(frozen=True, slots=True)
class Dead:
    """An actor that Ray does not start again, and why."""

    reason: str


def need_ray() -> Any:
    """The `ray` module, imported now.

    Raises:
        Unavailable: it is not installed.
        Incompatible: it is too old to be protected.
    """
    # Else Ray prints a stack trace for every SIGTERM, before our own handler ends us in order.
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise Unavailable("--backend ray needs the package 'ray': pip install 'tandem[ray]'") from error
    version = tuple(int(part) for part in ray.__version__.split(".")[:2])
    if version < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise Incompatible(f"Ray {ray.__version__} has no token authentication: install {least} or newer")
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


class RayCluster:
    """The connection of one run. Raises `Unavailable` from every method while Ray does not answer."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._handles: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        """Looks under way, by service: at most one each, however long an actor has no room."""

    def connect(self, address: str) -> None:
        """Join the Ray at `address`, on a node of which this process must be.

        Raises:
            PermissionRefused: no token, or not the one of that Ray.
            Incompatible: Ray or Python is of another version there.
        """
        ray = need_ray()
        with _typed(f"the Ray at {address}"):
            if ray.is_initialized():
                ray.shutdown()
            self._handles, self._asked = {}, {}
            ray.init(
                address=address,
                namespace=self._run,
                log_to_driver=False,
                configure_logging=False,
            )

    def close(self) -> None:
        """Leave; what is detached stays."""
        import ray

        with contextlib.suppress(Exception):
            ray.shutdown()

    def nodes(self) -> tuple[str, frozenset[str]]:
        """IP addresses: of this node, and of all that are alive."""
        import ray

        with _typed("the nodes of Ray"):
            alive = frozenset(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])
            return ray.util.get_node_ip_address(), alive

    def free(self) -> dict[str, float]:
        """What nobody has reserved in the whole cluster, by name."""
        import ray

        with _typed("the resources of Ray"):
            return dict(ray.available_resources())

    def groups(self) -> dict[str, GroupState]:
        """All placement groups, those of other runs too."""
        with _typed("the placement groups of Ray"):
            return ray_groups.table()

    def named(self) -> list[tuple[str, str]]:
        """Namespace and name of every actor that is not dead for good."""
        import ray

        with _typed("the actors of Ray"):
            actors = ray.util.list_named_actors(all_namespaces=True)
            return [(actor["namespace"], actor["name"]) for actor in actors]

    def make_group(self, group: Group) -> None:
        """Ask for the resources; they come when there is room."""
        from ray.util.placement_group import placement_group

        with _typed(f"the placement group {group.name}"):
            placement_group(group.bundles, strategy=group.strategy, name=group.name, lifetime="detached")

    def remove_groups(self, groups: Collection[GroupState]) -> None:
        """Their actors were ended before."""
        with _typed("the placement groups of Ray"):
            ray_groups.remove(groups)

    def create(self, spec: ServiceSpec, group: Group, state: GroupState) -> None:
        """Make the actor of a service; it runs when its group has room."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        from orchestrator.backends.ray_actor import ServiceActor

        index = [member.name for member in group.members].index(spec.name)
        needs = dict(group.bundle)
        with _typed(f"the actor of {spec.name}"):
            # Handles that go out of scope end nothing: the actor is detached.
            self._handles[spec.name] = (
                ray.remote(ServiceActor)
                .options(
                    name=spec.name,
                    namespace=self._run,
                    lifetime="detached",
                    max_restarts=-1,
                    max_task_retries=0,
                    num_cpus=needs["CPU"],
                    num_gpus=needs.get("GPU", 0),
                    scheduling_strategy=PlacementGroupSchedulingStrategy(
                        ray_groups.handle(state), placement_group_bundle_index=index
                    ),
                )
                .remote(spec.to_text())
            )
            self._asked.pop(spec.name, None)

    def look(self, names: Collection[str], timeout_s: float) -> dict[str, Look | Dead | None]:
        """What the actors say within `timeout_s`. None: it said nothing; left out: no actor has that name."""
        import ray

        with _typed("the actors of Ray"):
            found: dict[str, Look | Dead | None] = {}
            for name in names:
                if self._handle(name) is not None:
                    found[name] = None
                    if name not in self._asked:
                        self._asked[name] = self._handles[name].look.remote()
            asked = {ref: name for name, ref in self._asked.items()}
            if asked:
                done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
                for ref in done:
                    del self._asked[asked[ref]]
                    self._hear(asked[ref], ref, found)
            return found

    def _hear(self, name: str, ref: Any, found: dict[str, Look | Dead | None]) -> None:
        import ray

        try:
            answer = json.loads(ray.get(ref))
            said, ending = tuple(answer["said"]), answer.get("ending", "")
            found[name] = Look(answer["digest"], said, answer["node"], ending)
        except ray.exceptions.ActorDiedError as error:
            self._handles.pop(name, None)
            found[name] = Dead(str(error).strip().splitlines()[-1])  # of a traceback: the error itself
        except ray.exceptions.RayError as error:  # starting again, or its node is lost
            log.info("the actor of %s does not answer: %s", name, _first_line(error))

    def tell(self, name: str, method: str, *arguments: str) -> None:
        """Call a method of an actor and wait for nothing; no-op where there is none."""
        with _typed(f"the actor of {name}"):
            actor = self._handle(name)
            if actor is not None:
                getattr(actor, method).remote(*arguments)

    def stop(self, names: Collection[str], timeout_s: float) -> None:
        """Let these services end in order, for at most `timeout_s`, then end their actors."""
        import ray

        with _typed("the actors of Ray"):
            actors = {name: actor for name in names if (actor := self._handle(name)) is not None}
            refs = [actor.stop.remote() for actor in actors.values()]
            if refs:
                ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
            for name in actors:
                self.kill(name)

    def kill(self, name: str) -> None:
        """End an actor for good, its service with it; no-op where there is none."""
        import ray

        with _typed(f"the actor of {name}"):
            actor = self._handle(name)
            if actor is not None:
                ray.kill(actor, no_restart=True)
            self._handles.pop(name, None)
            self._asked.pop(name, None)

    def wait_gone(self, names: Collection[str], timeout_s: float) -> None:
        """Until Ray has no actors of these names any more, or the time is over."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if not {(self._run, name) for name in names}.intersection(self.named()):
                return
            time.sleep(0.05)

    def _handle(self, name: str) -> Any:
        import ray

        if name not in self._handles:
            try:
                self._handles[name] = ray.get_actor(name, namespace=self._run)
            except ValueError:  # how Ray says that there is none
                return None
        return self._handles[name]


@contextlib.contextmanager
def _typed(what: str) -> Iterator[None]:
    """Errors of Ray as ours."""
    try:
        yield
    except TandemError:
        raise
    except Exception as error:
        raise _error(what, error) from error


def _error(what: str, error: Exception) -> TandemError:
    kind: Callable[[str], TandemError] = Unavailable
    text = _first_line(error)
    if type(error).__name__ == "AuthenticationError":
        kind = PermissionRefused
        text += "; give the token in RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    elif isinstance(error, RuntimeError) and "ersion mismatch" in str(error):
        kind, text = Incompatible, " ".join(str(error).split())
    return kind(f"{what}: {text}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
