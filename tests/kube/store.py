"""The objects of the fake API server: versions, conflicts, history, watches. No HTTP here.

Every write raises one global resourceVersion, as etcd's revision does. What was there before is kept with
each event, so that a watch can say that an object left its selector, and a list be answered from the past.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.kube.checking import check_name, check_semantics
from tests.kube.problems import ApiProblem, already_exists, bad_request, conflict, gone, invalid, not_found
from tests.kube.resources import BUILT_IN, CUSTOM, Resource

Item = dict[str, Any]
Key = tuple[str, str, str]
"""Plural with its group, namespace, name."""


@dataclass(frozen=True)
class Change:
    """One write."""

    version: int
    kind: str
    """ADDED, MODIFIED or DELETED."""
    resource: Resource
    key: Key
    item: Item
    former: Item | None


class Store:
    """All objects. Owned by the event loop."""

    def __init__(self, resources: tuple[Resource, ...] = BUILT_IN + CUSTOM) -> None:
        self.resources = {(each.group, each.plural): each for each in resources}
        self.version = 0
        self.compacted = 0
        """Changes up to this one are forgotten."""
        self.history: list[Change] = []
        self._items: dict[Key, Item] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        for name in ("default", "kube-system"):
            self.create(self.resources["", "namespaces"], "", {"metadata": {"name": name}})

    def key(self, resource: Resource, namespace: str, name: str) -> Key:
        plural = f"{resource.plural}.{resource.group}"
        return plural, namespace if resource.namespaced else "", name

    def get(self, resource: Resource, namespace: str, name: str) -> Item:
        item = self._items.get(self.key(resource, namespace, name))
        if item is None:
            raise not_found(resource.plural, name)
        return copy.deepcopy(item)

    def list(self, resource: Resource, namespace: str, *, at: int | None = None) -> list[Item]:
        """All of one namespace, or of every one; `at`: as it was after that write."""
        items = dict(self._items)
        for change in reversed(self.history):
            if at is None or change.version <= at:
                break
            if change.former is None:
                items.pop(change.key, None)
            else:
                items[change.key] = change.former
        prefix = self.key(resource, namespace, "")
        return [
            copy.deepcopy(item)
            for key, item in sorted(items.items(), key=lambda pair: pair[0])
            if key[0] == prefix[0] and (not namespace or key[1] == prefix[1])
        ]

    def create(self, resource: Resource, namespace: str, item: Item) -> Item:
        item = copy.deepcopy(item)
        meta = item.setdefault("metadata", {})
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not meta.get("name"):
            if not meta.get("generateName"):
                raise invalid(
                    resource.kind, "", "metadata.name", "Required value: name or generateName is required"
                )
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        if resource.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                raise bad_request("the namespace of the provided object does not match the namespace sent")
            if self.key(self.resources["", "namespaces"], "", namespace) not in self._items:
                raise not_found("namespaces", namespace)
        check_name(resource, meta["name"])
        key = self.key(resource, namespace, meta["name"])
        if key in self._items:
            raise already_exists(resource.plural, meta["name"])
        check_semantics(resource, item, None)
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now_text())
        if resource.has_status:
            meta["generation"] = 1
            if resource.kind == "Pod":
                item["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
            else:
                item.pop("status", None)
        item.update(apiVersion=resource.api_version, kind=resource.kind)
        return self._write("ADDED", resource, key, item, None)

    def replace(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        item: Item,
        *,
        status: bool = False,
        patched: bool = False,
    ) -> Item:
        """A whole new version of an object; with `status` of that alone, else of all but that."""
        key = self.key(resource, namespace, name)
        former = self._items.get(key)
        if former is None:
            raise not_found(resource.plural, name)
        item, was, meta = copy.deepcopy(item), former["metadata"], item.get("metadata", {})
        if meta.get("name", name) != name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            )
        version = meta.get("resourceVersion")
        if version and version != was["resourceVersion"]:
            raise conflict(resource.plural, name)
        if not version and not patched and not resource.unconditional_update:
            raise invalid(
                resource.kind, name, "metadata.resourceVersion", "Invalid value: 0: must be specified"
            )
        if meta.get("uid", was["uid"]) != was["uid"]:
            raise conflict(resource.plural, name, f"Precondition failed: UID in precondition: {meta['uid']}")
        if status:
            item = {**copy.deepcopy(former), "status": item.get("status", {})}
        else:
            item = {**item, "apiVersion": resource.api_version, "kind": resource.kind}
            kept = (
                "uid",
                "creationTimestamp",
                "namespace",
                "name",
                "generation",
                "deletionTimestamp",
                "resourceVersion",
            )
            item["metadata"] = {
                **item.get("metadata", {}),
                **{field: was[field] for field in kept if field in was},
            }
            if resource.has_status:
                item.pop("status", None)
                if "status" in former:
                    item["status"] = former["status"]
                if _without(item, "metadata", "status") != _without(former, "metadata", "status"):
                    item["metadata"]["generation"] = was.get("generation", 0) + 1
            check_semantics(resource, item, former)
        if item == former:
            return copy.deepcopy(former)
        if "deletionTimestamp" in was and not item["metadata"].get("finalizers"):
            return self._write("DELETED", resource, key, item, former)
        return self._write("MODIFIED", resource, key, item, former)

    def delete(
        self, resource: Resource, namespace: str, name: str, options: Item | None = None
    ) -> tuple[Item, bool]:
        """The object, and whether it is gone already; a finalizer, or a kubelet, may hold it."""
        options = options or {}
        key = self.key(resource, namespace, name)
        item = self.get(resource, namespace, name)
        for field, value in (options.get("preconditions") or {}).items():
            if item["metadata"][field] != value:
                raise conflict(resource.plural, name, f"Precondition failed: {field}: {value}")
        grace_s = options.get("gracePeriodSeconds")
        runs = resource.kind == "Pod" and item["spec"].get("nodeName") and grace_s != 0
        if item["metadata"].get("finalizers") or runs:
            if "deletionTimestamp" in item["metadata"]:
                return item, False
            former = copy.deepcopy(item)
            item["metadata"]["deletionTimestamp"] = now_text()
            default_s = item["spec"].get("terminationGracePeriodSeconds", 30) if runs else 0
            item["metadata"]["deletionGracePeriodSeconds"] = default_s if grace_s is None else grace_s
            return self._write("MODIFIED", resource, key, item, former), False
        return self._write("DELETED", resource, key, item, copy.deepcopy(item)), True

    def compact(self) -> None:
        """Forget all changes so far: watches from before, and pages of older lists, are gone."""
        self.compacted = self.version
        self.history.clear()

    def changes(self, since: int) -> list[Change]:
        """Those after a write. Raises 410 when some of them are forgotten."""
        if since < self.compacted:
            raise gone(f"too old resource version: {since} ({self.compacted})")
        if since > self.version:
            raise ApiProblem(504, "Timeout", f"Too large resource version: {since}, current: {self.version}")
        return [change for change in self.history if change.version > since]

    async def changed(self, timeout_s: float) -> None:
        """Until the next write, or the time is over."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    def edit(self, resource: Resource, namespace: str, name: str, change: Callable[[Item], None]) -> Item:
        """As a controller would: read, change in place, write; status and all."""
        item = self.get(resource, namespace, name)
        former = copy.deepcopy(item)
        change(item)
        return self._write("MODIFIED", resource, self.key(resource, namespace, name), item, former)

    def _write(self, kind: str, resource: Resource, key: Key, item: Item, former: Item | None) -> Item:
        self.version += 1
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            del self._items[key]
        else:
            self._items[key] = item
        self.history.append(Change(self.version, kind, resource, key, item, copy.deepcopy(former)))
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return copy.deepcopy(item)


def _without(item: Item, *fields: str) -> Item:
    return {key: value for key, value in item.items() if key not in fields}


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
