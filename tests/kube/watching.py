"""One watch: what matches a selector, as it changes, until the time is over or a fault ends it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from tests.kube.faults import Fault
from tests.kube.patching import fields_match, labels_match
from tests.kube.problems import ApiProblem, gone
from tests.kube.resources import Resource
from tests.kube.store import Change, Store


async def stream(
    request: web.Request,
    store: Store,
    resource: Resource,
    namespace: str,
    fault: Fault | None,
    bookmark_s: float,
) -> web.StreamResponse:
    query = request.query
    wanted = query.get("resourceVersion", "")
    since = int(wanted) if wanted not in {"", "0"} else store.version
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    if fault is not None and fault.end_watch:
        await response.write_eof()
        return response
    write = _Writer(request, response, fault)
    loop = asyncio.get_running_loop()
    timeout_s = float(query.get("timeoutSeconds") or 1800)
    ends_s, marked_s = loop.time() + timeout_s, loop.time()

    def matches(item: dict[str, Any]) -> bool:
        return labels_match(
            query.get("labelSelector", ""), item["metadata"].get("labels", {})
        ) and fields_match(query.get("fieldSelector", ""), item)

    try:
        if wanted in {"", "0"}:
            for item in store.list(resource, namespace):
                if matches(item):
                    await write.event("ADDED", item)
        while True:
            for change in store.changes(since):
                since = change.version
                if change.resource is resource and namespace in {"", change.key[1]}:
                    kind = _seen_as(change, matches)
                    if kind:
                        await write.event(kind, _as_told(change))
            now_s = loop.time()
            is_over = now_s >= ends_s
            if query.get("allowWatchBookmarks") in {"true", "1"} and (
                is_over or now_s - marked_s >= bookmark_s
            ):
                marked_s = now_s
                mark = {"kind": resource.kind, "apiVersion": resource.api_version}
                await write.event("BOOKMARK", mark | {"metadata": {"resourceVersion": str(since)}})
            if is_over:
                break
            await store.changed(min(ends_s - now_s, bookmark_s))
    except ApiProblem as problem:
        await write.event("ERROR", problem.to_status())
    except _Dropped:
        return response
    except ConnectionResetError:
        return response
    await response.write_eof()
    return response


def _as_told(change: Change) -> dict[str, Any]:
    return change.item


def _seen_as(change: Change, matches: Any) -> str:
    """What a watch with a selector says of a write; empty: nothing."""
    before = change.former is not None and change.kind != "ADDED" and matches(change.former)
    now = change.kind != "DELETED" and matches(change.item)
    if before and now:
        return "MODIFIED"
    return "ADDED" if now else "DELETED" if before else ""


class _Dropped(Exception):
    """The test wants this connection broken."""


class _Writer:
    def __init__(self, request: web.Request, response: web.StreamResponse, fault: Fault | None) -> None:
        self._request, self._response, self._fault, self._count = request, response, fault, 0

    async def event(self, kind: str, item: dict[str, Any]) -> None:
        fault = self._fault
        if fault is not None and kind != "ERROR":
            if fault.drop_watch_after == self._count:
                assert self._request.transport is not None
                self._request.transport.abort()
                raise _Dropped
            if fault.expire_watch_after == self._count:
                raise gone("too old resource version")
        self._count += 1
        await self._response.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")
