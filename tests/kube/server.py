"""A small, faithful Kubernetes API server for tests, on loopback.

Faithful in what clients can be caught by: optimistic concurrency, selectors, watches that end, expire and
break, lists from the past, finalizers, field ownership, strict validation. `tests/kube/test_conformance.py`
holds it to the same table as a real server. What controllers do is in `tests/kube/controllers.py`.
"""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from tests.kube import discovery
from tests.kube.checking import check_replicas, check_schema
from tests.kube.faults import Faults
from tests.kube.owners import Owners
from tests.kube.patching import fields_match, json_patch, labels_match, merge_patch, strategic_merge
from tests.kube.problems import ApiProblem, bad_request, not_found
from tests.kube.resources import Resource
from tests.kube.store import Item, Store
from tests.kube.watching import stream

_PATCHES = {
    "application/merge-patch+json": merge_patch,
    "application/json-patch+json": json_patch,
    "application/strategic-merge-patch+json": strategic_merge,
}
_APPLY = "application/apply-patch+yaml"
_WRITES = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    user: str


@dataclass(frozen=True)
class _Target:
    resource: Resource
    namespace: str
    name: str
    part: str


class FakeKube:
    """The server. `tokens`: who may call, by bearer token; empty: everybody may."""

    def __init__(self, *, version: str = "1.31", tokens: dict[str, str] | None = None) -> None:
        self.version = version
        self.tokens = tokens or {}
        self.store = Store()
        self.owners = Owners()
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.forbidden: set[tuple[str, str]] = set()
        """(verb, resource or resource/part) that nobody may."""
        self.bookmark_s = 1.0
        self.url = ""

    @property
    def token(self) -> str:
        return next(iter(self.tokens), "")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            user = self._user(request)
            self.seen.append(Seen(request.method, request.path, dict(request.query), user))
            fault = self.faults.take(request.method, request.path_qs)
            if fault is not None:
                await asyncio.sleep(fault.delay_s)
                if fault.drop:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                if fault.status:
                    problem = ApiProblem(
                        fault.status,
                        "TooManyRequests" if fault.status == 429 else "InternalError",
                        "a fault of the test",
                    )
                    return _answer(problem.to_status(), problem.code, _retry_header(fault.retry_after_s))
            if (told := self._discover(request.path)) is not None:
                return _answer(told)
            target = self._target(request.path)
            self._may(request, target)
            if request.method == "GET":
                if target.name:
                    return _answer(self._read(target))
                if request.query.get("watch") in {"true", "1"}:
                    return await stream(
                        request, self.store, target.resource, target.namespace, fault, self.bookmark_s
                    )
                return _answer(self._list(request, target, fault.stale_by if fault else None))
            return await self._write(request, target)
        except ApiProblem as problem:
            return _answer(problem.to_status(), problem.code)
        except (json.JSONDecodeError, yaml.YAMLError) as error:
            return _answer(bad_request(f"cannot parse the body: {error}").to_status(), 400)

    def _user(self, request: web.Request) -> str:
        if not self.tokens:
            return "anonymous"
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        if token.strip() not in self.tokens:
            raise ApiProblem(401, "Unauthorized", "Unauthorized")
        return self.tokens[token.strip()]

    def _may(self, request: web.Request, target: _Target) -> None:
        verb = _WRITES.get(request.method) or (
            "get" if target.name else "watch" if request.query.get("watch") else "list"
        )
        what = f"{target.resource.plural}/{target.part}" if target.part else target.resource.plural
        if (verb, what) in self.forbidden:
            raise ApiProblem(
                403, "Forbidden", f'{what} "{target.name}" is forbidden: User cannot {verb} resource "{what}"'
            )

    def _discover(self, path: str) -> Any:
        resources = list(self.store.resources.values())
        parts = [part for part in path.split("/") if part]
        match parts:
            case ["version"]:
                return discovery.version(self.version)
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                return discovery.groups(resources)
            case ["api", "v1"]:
                return discovery.kinds(resources, "", "v1")
            case ["apis", group]:
                for each in discovery.groups(resources)["groups"]:
                    if each["name"] == group:
                        return {"kind": "APIGroup", "apiVersion": "v1", **each}
                raise not_found("groups", group)
            case ["apis", group, version]:
                return discovery.kinds(resources, group, version)
            case ["openapi", "v3"]:
                return discovery.openapi_index(resources)
            case ["openapi", "v3", *rest]:
                return discovery.openapi(resources, "/".join(rest))
            case ["healthz" | "readyz" | "livez", *_]:
                return "ok"
        return None

    def _target(self, path: str) -> _Target:
        parts = [part for part in path.split("/") if part]
        group, rest = (
            ("", parts[2:]) if parts[:1] == ["api"] else (parts[1] if len(parts) > 1 else "", parts[3:])
        )
        namespace = ""
        if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] not in {"status", "finalize"}:
            namespace, rest = rest[1], rest[2:]
        if not rest or (group, rest[0]) not in self.store.resources:
            raise ApiProblem(404, "NotFound", "the server could not find the requested resource")
        resource = self.store.resources[group, rest[0]]
        name, part = [*rest[1:3], "", ""][:2]
        known = {"status": resource.has_status, "scale": resource.has_scale, "": True}
        if not known.get(part, False):
            raise ApiProblem(404, "NotFound", "the server could not find the requested resource")
        return _Target(resource, namespace, name, part)

    def _told(self, resource: Resource, item: Item) -> Item:
        key = self.store.key(resource, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        item["metadata"]["managedFields"] = self.owners.told(key, resource.api_version)
        return item

    def _read(self, target: _Target) -> Item:
        item = self.store.get(target.resource, target.namespace, target.name)
        return scale_of(item) if target.part == "scale" else self._told(target.resource, item)

    def _list(self, request: web.Request, target: _Target, stale_by: int | None) -> Item:
        query, version = request.query, self.store.version
        if "continue" in query:
            version, offset = (int(part) for part in query["continue"].split(":"))
            if version < self.store.compacted:
                raise ApiProblem(410, "Expired", "The provided continue parameter is too old")
        else:
            offset = 0
            wanted = int(query.get("resourceVersion") or 0)
            self.store.changes(max(wanted, self.store.compacted))  # from the future: 504
            if stale_by is not None:
                version = max(version - stale_by, self.store.compacted)
        items = [
            item
            for item in self.store.list(target.resource, target.namespace, at=version)
            if labels_match(query.get("labelSelector", ""), item["metadata"].get("labels", {}))
            and fields_match(query.get("fieldSelector", ""), item)
        ]
        limit = int(query.get("limit") or 0) or len(items)
        page, rest = items[offset : offset + limit], len(items) - offset - limit
        meta: Item = {"resourceVersion": str(version)}
        if rest > 0:
            meta |= {"continue": f"{version}:{offset + limit}", "remainingItemCount": rest}
        kind, api_version = target.resource.kind, target.resource.api_version
        return {"kind": f"{kind}List", "apiVersion": api_version, "metadata": meta, "items": page}

    async def _write(self, request: web.Request, target: _Target) -> web.Response:
        if request.method == "DELETE":
            return await self._delete(request, target)
        manager = (
            request.query.get("fieldManager") or request.headers.get("User-Agent", "unknown").split("/")[0]
        )
        content = request.content_type
        text = await request.text()
        body = yaml.safe_load(text) if "yaml" in content else json.loads(text)
        if request.method == "POST" and not target.name:
            return self._create(request, target, body, manager)
        if request.method == "PUT":
            return self._replace(request, target, body, manager, patched=False)
        if request.method == "PATCH" and content == _APPLY:
            return self._apply(request, target, body, manager)
        if request.method == "PATCH" and content in _PATCHES:
            present = self.store.get(target.resource, target.namespace, target.name)
            shown = scale_of(present) if target.part == "scale" else present
            patched = _PATCHES[content](shown, body)
            return self._replace(request, target, patched, manager, patched=True)
        if request.method == "PATCH":
            raise ApiProblem(
                415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {content}"
            )
        raise ApiProblem(
            405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )

    def _checked(self, request: web.Request, target: _Target, item: Item) -> list[str]:
        return check_schema(target.resource, item, self.version, request.query.get("fieldValidation", "Warn"))

    def _create(self, request: web.Request, target: _Target, body: Item, manager: str) -> web.Response:
        _check_kind(target.resource, body)
        warnings = self._checked(request, target, body)
        if request.query.get("dryRun") == "All":
            return _answer(body, 201)
        item = self.store.create(target.resource, target.namespace, body)
        self.owners.wrote(
            self.store.key(target.resource, target.namespace, item["metadata"]["name"]), manager, None, item
        )
        return _answer(self._told(target.resource, item), 201, _warn(warnings))

    def _replace(
        self, request: web.Request, target: _Target, body: Item, manager: str, *, patched: bool
    ) -> web.Response:
        resource, place = target.resource, (target.namespace, target.name)
        former = self.store.get(resource, *place)
        if target.part == "scale":
            item = _scaled(resource, former, body)
        else:
            _check_kind(resource, body)
            item = body
            item.get("metadata", {}).pop("managedFields", None)
        warnings = [] if target.part == "scale" else self._checked(request, target, item)
        written = self.store.replace(resource, *place, item, status=target.part == "status", patched=patched)
        self.owners.wrote(self.store.key(resource, *place), manager, former, written, target.part)
        if target.part == "scale":
            return _answer(scale_of(written))
        return _answer(self._told(resource, written), 200, _warn(warnings))

    def _apply(self, request: web.Request, target: _Target, body: Item, manager: str) -> web.Response:
        resource, place = target.resource, (target.namespace, target.name)
        _check_kind(resource, body)
        key = self.store.key(resource, *place)
        body = copy.deepcopy(body)
        body.setdefault("metadata", {})["name"] = target.name
        warnings = self._checked(request, target, copy.deepcopy(body))
        try:
            former: Item | None = self.store.get(resource, *place)
        except ApiProblem:
            former = None
            self.owners.forget(key)
        query = request.query
        body["metadata"].pop("managedFields", None)
        result = self.owners.apply(
            key, query.get("fieldManager", ""), former, body, force=query.get("force") == "true"
        )
        if query.get("dryRun") == "All":
            return _answer(result)
        if former is None:
            return _answer(self._told(resource, self.store.create(resource, target.namespace, result)), 201)
        written = self.store.replace(resource, *place, result, status=target.part == "status", patched=True)
        return _answer(self._told(resource, written), 200, _warn(warnings))

    async def _delete(self, request: web.Request, target: _Target) -> web.Response:
        text = await request.text()
        options = json.loads(text) if text else {}
        if "gracePeriodSeconds" in request.query:
            options["gracePeriodSeconds"] = int(request.query["gracePeriodSeconds"])
        if not target.name:
            listed = self._list(request, target, None)
            for item in listed["items"]:
                self.store.delete(target.resource, target.namespace, item["metadata"]["name"], options)
            return _answer(listed)
        item, is_gone = self.store.delete(target.resource, target.namespace, target.name, options)
        if not is_gone or target.resource.kind == "Pod":
            return _answer(item)
        self.owners.forget(self.store.key(target.resource, target.namespace, target.name))
        details = {"name": target.name, "kind": target.resource.plural, "uid": item["metadata"]["uid"]}
        return _answer(
            {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": details, "metadata": {}}
        )


def scale_of(item: Item) -> Item:
    """The scale subresource of a workload."""
    labels = item["spec"].get("selector", {}).get("matchLabels", {})
    meta = {
        key: item["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    }
    replicas = item["spec"].get("replicas", 1)
    selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    status = {"replicas": item.get("status", {}).get("replicas", 0), "selector": selector}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": replicas},
        "status": status,
    }


def _scaled(resource: Resource, former: Item, scale: Item) -> Item:
    replicas = scale.get("spec", {}).get("replicas", 0)
    if not isinstance(replicas, int):
        raise bad_request("Scale: spec.replicas: json: cannot unmarshal into int32")
    check_replicas(resource, former["metadata"]["name"], replicas)
    version = scale.get("metadata", {}).get("resourceVersion") or former["metadata"]["resourceVersion"]
    item = copy.deepcopy(former)
    item["spec"]["replicas"] = replicas
    item["metadata"]["resourceVersion"] = version
    return item


def _check_kind(resource: Resource, body: Any) -> None:
    if not isinstance(body, dict):
        raise bad_request("the body is not an object")
    body.setdefault("kind", resource.kind)
    body.setdefault("apiVersion", resource.api_version)
    if (body["kind"], body["apiVersion"]) != (resource.kind, resource.api_version):
        raise bad_request(
            f"{body['kind']} in version {body['apiVersion']!r} cannot be handled as a {resource.kind}"
        )


def _retry_header(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _warn(warnings: list[str]) -> dict[str, str]:
    return {"Warning": ", ".join(f'299 - "{each}"' for each in warnings)} if warnings else {}


def _answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers)


@asynccontextmanager
async def fake_kube(**options: Any) -> AsyncIterator[FakeKube]:
    """A server that listens, for as long as the block runs."""
    kube = FakeKube(**options)
    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", kube.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    kube.url = f"http://127.0.0.1:{port}"
    try:
        yield kube
    finally:
        await runner.cleanup()
