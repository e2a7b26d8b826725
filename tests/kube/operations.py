"""The table: what is done to an API server, and what must come of it, whichever server it is.

A row does a few calls and returns what it saw; errors count by the name of their class. Rows of what the
server of Kubernetes 1.20 does not do yet say since when it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import TandemError

APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class Row:
    name: str
    run: Callable[[KubeApi], Awaitable[Any]]
    expected: Any
    since: int = 0
    """Minor version of the server."""


async def outcome(call: Awaitable[Any]) -> str:
    try:
        await call
    except TandemError as error:
        return type(error).__name__
    return "ok"


def lease(name: str, holder: str = "a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 10, "leaseTransitions": 1, **spec},
    }


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        # No scheduler of a real cluster may write into what a row looks at.
        "spec": {"schedulerName": "none", "containers": [{"name": "main", "image": "none"}]},
    }


def stateful_set(name: str, replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }


def pods_of(api: KubeApi, name: str = "") -> str:
    return f"/api/v1/namespaces/{api.namespace}/pods" + (f"/{name}" if name else "")


def sets_of(api: KubeApi, name: str = "") -> str:
    return f"/apis/apps/v1/namespaces/{api.namespace}/statefulsets" + (f"/{name}" if name else "")


def maps_of(api: KubeApi, name: str = "") -> str:
    return f"/api/v1/namespaces/{api.namespace}/configmaps" + (f"/{name}" if name else "")


async def lease_life(api: KubeApi) -> Any:
    seen = [await outcome(api.read_lease("l")), await outcome(api.create_lease(lease("l")))]
    seen.append(await outcome(api.create_lease(lease("l"))))
    first = await api.read_lease("l")
    taken = {**first, "spec": {**first["spec"], "holderIdentity": "b", "leaseTransitions": 2}}
    second = await api.replace_lease("l", taken)
    seen.append(await outcome(api.replace_lease("l", taken)))
    seen.append((await api.read_lease("l"))["spec"]["holderIdentity"])
    rose = int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    return [*seen, rose]


async def lease_without_version(api: KubeApi) -> Any:
    await api.create_lease(lease("v"))
    return await outcome(api.replace_lease("v", lease("v", "b")))


async def bad_leases(api: KubeApi) -> Any:
    return [
        await outcome(api.create_lease(lease("Not A Name"))),
        await outcome(api.create_lease(lease("z", leaseDurationSeconds=0))),
        await outcome(api.create_lease(lease("z", leaseDurationSeconds="soon"))),
        await outcome(api.read_lease("z")),
    ]


async def lease_unchanged(api: KubeApi) -> Any:
    first = await api.create_lease(lease("same"))
    second = await api.replace_lease("same", first)
    return first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def select_pods(api: KubeApi) -> Any:
    for body in (
        pod("e-0", app="t", role="encoder"),
        pod("r-0", app="t", role="reasoner"),
        pod("x", app="u"),
    ):
        await api.call("POST", pods_of(api), body=body)
    seen = []
    for selector in ("app=t", "app=t,role in (encoder)", "app=t,role notin (encoder)", "!role", "app!=t"):
        items, _ = await api.list_pods(selector)
        seen.append([item["metadata"]["name"] for item in items])
    return [*seen, await outcome(api.list_pods("app=t,,=")), items[0]["status"]["phase"]]


async def list_not_older(api: KubeApi) -> Any:
    _, version = await api.list_pods("app=none")
    return [
        await outcome(api.list_pods("app=none", version)),
        await outcome(api.list_pods("app=none", str(int(version) + 1000000))),
    ]


async def pages(api: KubeApi) -> Any:
    for number in range(5):
        await api.call("POST", maps_of(api), body={"metadata": {"name": f"m{number}", "labels": {"p": "1"}}})
    query, seen = {"labelSelector": "p=1", "limit": "2"}, []
    while True:
        reply = await api.call("GET", maps_of(api), query)
        seen.append([item["metadata"]["name"] for item in reply["items"]])
        if not reply["metadata"].get("continue"):
            return seen
        query["continue"] = reply["metadata"]["continue"]


async def watch_changes(api: KubeApi) -> Any:
    _, version = await api.list_pods("w=1")
    await api.call("POST", pods_of(api), body=pod("w-0", w="1"))
    label = {"metadata": {"labels": {"more": "1"}}}
    await api.call("PATCH", pods_of(api, "w-0"), body=label, content_type=MERGE)
    leaves = {"metadata": {"labels": {"w": None}}}
    await api.call("PATCH", pods_of(api, "w-0"), body=leaves, content_type=MERGE)
    await api.call(
        "PATCH", pods_of(api, "w-0"), body={"metadata": {"labels": {"w": "1"}}}, content_type=MERGE
    )
    await api.call("DELETE", pods_of(api, "w-0"), {"gracePeriodSeconds": "0"})
    seen = []
    async for kind, item in api.watch_pods("w=1", version, 2):
        # Some servers announce a deletion although it has no grace.
        announced = kind == "MODIFIED" and "deletionTimestamp" in item["metadata"]
        if kind != "BOOKMARK" and not announced:
            seen.append(kind)
        if len(seen) == 5:
            break
    return seen


async def watch_ends(api: KubeApi) -> Any:
    _, version = await api.list_pods("quiet=1")
    return [kind async for kind, _ in api.watch_pods("quiet=1", version, 1) if kind != "BOOKMARK"]


async def settled_scale(api: KubeApi, name: str) -> dict[str, Any]:
    """Once no controller writes to it any more: what we change must be what we read."""
    found = await api.read_scale(name)
    while True:
        await asyncio.sleep(0.05)
        again = await api.read_scale(name)
        if again["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]:
            return again
        found = again


async def scale(api: KubeApi) -> Any:
    made = await api.call("POST", sets_of(api), body=stateful_set("s"))
    first = await settled_scale(api, "s")
    seen: list[Any] = [first["spec"]["replicas"], made["metadata"]["generation"]]
    changed = await api.set_scale("s", 3, first["metadata"]["resourceVersion"])
    whole = await api.call("GET", sets_of(api, "s"))
    seen += [changed["spec"]["replicas"], whole["spec"]["replicas"], whole["metadata"]["generation"]]
    seen.append(await outcome(api.set_scale("s", 4, first["metadata"]["resourceVersion"])))
    seen.append(await outcome(api.set_scale("s", -1, changed["metadata"]["resourceVersion"])))
    return [*seen, await outcome(api.read_scale("none")), await outcome(api.set_scale("none", 1, "1"))]


async def bad_sets(api: KubeApi) -> Any:
    other = stateful_set("bad")
    other["spec"]["template"]["metadata"]["labels"] = {"app": "another"}
    return await outcome(api.call("POST", sets_of(api), body=other))


async def strict_fields(api: KubeApi) -> Any:
    body = pod("typo", a="b")
    body["spec"]["restartPolicyy"] = "Never"
    strict = await outcome(api.call("POST", pods_of(api), {"fieldValidation": "Strict"}, body))
    made = await api.call("POST", pods_of(api), {"fieldValidation": "Warn"}, body)
    return [strict, "restartPolicyy" in made["spec"]]


async def patches(api: KubeApi) -> Any:
    await api.call("POST", maps_of(api), body={"metadata": {"name": "p"}, "data": {"a": "1", "b": "2"}})
    path = maps_of(api, "p")
    merged = await api.call("PATCH", path, body={"data": {"a": None, "c": "3"}}, content_type=MERGE)
    right: Any = [
        {"op": "test", "path": "/data/b", "value": "2"},
        {"op": "add", "path": "/data/d", "value": "4"},
    ]
    patched = await api.call("PATCH", path, body=right, content_type=JSON_PATCH)
    wrong: Any = [{"op": "test", "path": "/data/b", "value": "9"}]
    failed = await outcome(api.call("PATCH", path, body=wrong, content_type=JSON_PATCH))
    stale = {"metadata": {"resourceVersion": merged["metadata"]["resourceVersion"]}, "data": {"e": "5"}}
    late = await outcome(api.call("PATCH", path, body=stale, content_type=MERGE))
    return [merged["data"], patched["data"], failed, late]


async def applying(api: KubeApi) -> Any:
    path = maps_of(api, "applied")

    def body(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}

    async def apply(manager: str, force: str = "false", **data: str) -> str:
        query = {"fieldManager": manager, "force": force} if manager else {}
        return await outcome(api.call("PATCH", path, query, body(**data), content_type=APPLY))

    seen: list[Any] = [await apply(""), await apply("one", a="1", b="1"), await apply("two", a="2")]
    seen += [await apply("two", force="true", a="2"), await apply("one", b="1"), await apply("two", c="3")]
    return [*seen, (await api.call("GET", path))["data"]]


async def scaled_then_applied(api: KubeApi) -> Any:
    """Whoever applies a number of replicas that a scaler has set meanwhile is told."""
    path, body = sets_of(api, "owned"), stateful_set("owned")
    await api.call("PATCH", path, {"fieldManager": "helm"}, body, content_type=APPLY)
    now = await settled_scale(api, "owned")
    await api.set_scale("owned", 5, now["metadata"]["resourceVersion"])
    again = await outcome(api.call("PATCH", path, {"fieldManager": "helm"}, body, content_type=APPLY))
    return [again, (await api.read_scale("owned"))["spec"]["replicas"]]


async def finalizers(api: KubeApi) -> Any:
    body = {"metadata": {"name": "held", "finalizers": ["tandem.test/hold"]}}
    await api.call("POST", maps_of(api), body=body)
    await api.call("DELETE", maps_of(api, "held"))
    held = await api.call("GET", maps_of(api, "held"))
    let_go = {"metadata": {"finalizers": None}}
    await api.call("PATCH", maps_of(api, "held"), body=let_go, content_type=MERGE)
    return ["deletionTimestamp" in held["metadata"], await outcome(api.call("GET", maps_of(api, "held")))]


async def preconditions(api: KubeApi) -> Any:
    await api.call("POST", pods_of(api), body=pod("uid", a="b"))
    wrong = {"preconditions": {"uid": "not-this-one"}}
    return await outcome(api.call("DELETE", pods_of(api, "uid"), body=wrong))


async def names(api: KubeApi) -> Any:
    made = await api.call("POST", maps_of(api), body={"metadata": {"generateName": "made-"}})
    return [
        made["metadata"]["name"].startswith("made-"),
        await outcome(api.call("POST", maps_of(api), body={"metadata": {}})),
        await outcome(api.call("POST", maps_of(api), body={"metadata": {"name": "A_b"}})),
        await outcome(
            api.call("POST", "/api/v1/namespaces/no-such/configmaps", body={"metadata": {"name": "a"}})
        ),
    ]


TABLE = (
    Row("a lease is created, replaced, and never by who read an older one", lease_life,
        ["NotFound", "ok", "AlreadyExists", "Conflict", "b", True]),
    Row("a lease is not replaced unread", lease_without_version, "InvalidInput"),
    Row("bad leases are refused", bad_leases, ["InvalidInput"] * 3 + ["NotFound"]),
    Row("an update that changes nothing makes no version", lease_unchanged, True, since=22),
    Row("selectors", select_pods,
        [["e-0", "r-0"], ["e-0"], ["r-0"], ["x"], ["x"], "InvalidInput", "Pending"]),
    Row("a list from the future is not to be had", list_not_older, ["ok", "Stale"]),
    Row("lists come in pages", pages, [["m0", "m1"], ["m2", "m3"], ["m4"]]),
    Row("a watch tells what enters and leaves its selector", watch_changes,
        ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]),
    Row("a watch ends by itself", watch_ends, []),
    Row("scale", scale, [2, 1, 3, 3, 2, "Conflict", "InvalidInput", "NotFound", "NotFound"]),
    Row("a workload that would not know its pods is refused", bad_sets, "InvalidInput"),
    Row("unknown fields", strict_fields, ["InvalidInput", False], since=25),
    Row("patches", patches,
        [{"b": "2", "c": "3"}, {"b": "2", "c": "3", "d": "4"}, "InvalidInput", "Conflict"]),
    Row("server-side apply", applying,
        ["InvalidInput", "ok", "Conflict", "ok", "ok", "ok", {"b": "1", "c": "3"}]),
    Row("replicas belong to who scales", scaled_then_applied, ["Conflict", 5], since=22),
    Row("finalizers hold what is deleted", finalizers, [True, "NotFound"]),
    Row("a deletion with another uid", preconditions, "Conflict"),
    Row("names", names, [True, "InvalidInput", "InvalidInput", "NotFound"]),
)  # fmt: skip
