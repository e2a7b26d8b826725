"""Shell: the few calls of the Kubernetes API that the backend makes, through the official client.

The client brings configuration, credentials that are renewed, and connections. Its typed models are not used:
what a server says is read as JSON, so that one of a newer or older version is no error. What goes wrong comes
out as typed errors; nothing is tried again here, because whoever calls knows how long it may take.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from orchestrator.backends.kubernetes_client import authority, make_client
from tandem.core.errors import (
    AlreadyExists,
    DataLost,
    Internal,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PermissionRefused,
    TandemError,
    Unavailable,
    WrongState,
)

CALL_TIMEOUT_S = 10.0
PAGE = 500
"""Objects in one piece of a list."""
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""A longer reply is refused: a list comes in pages."""
MAX_MESSAGE = 500
MERGE_PATCH = "application/merge-patch+json"

Json = dict[str, Any]
"""An object as the server sent it: nothing in it is certain."""


class Conflict(WrongState):
    """The object was changed since it was read."""


class Expired(DataLost):
    """The server has forgotten the version that was asked for: list anew."""


class Stale(Unavailable):
    """The server has not got to the version that was asked for, or answered with an older one."""


class KubeApi:
    """Calls in one namespace. Made in a running event loop; `close` it."""

    def __init__(
        self, client: Any, namespace: str, again: Callable[[], Awaitable[Any]] | None = None
    ) -> None:
        """`client`: an `ApiClient` of `kubernetes.aio.client`. `again` makes another one."""
        self._client, self._again = client, again
        self._trusted = authority(client)
        self._former: list[Any] = []
        """Clients that were replaced; others may still wait for an answer of theirs."""
        self.namespace = namespace

    @classmethod
    async def connect(cls, namespace: str, kubeconfig: str = "") -> KubeApi:
        """Read the configuration; nothing is sent.

        Raises:
            Unavailable: the extra `kubernetes` is not installed.
            InvalidInput: there is no usable configuration.
        """
        again = partial(make_client, kubeconfig)
        return cls(await again(), namespace, again)

    async def close(self) -> None:
        """Let go of all connections."""
        for client in (self._client, *self._former):
            await client.close()

    async def list_pods(self, selector: str, not_older_than: str = "") -> tuple[list[Json], str]:
        """All pods that match, and the version of the list.

        Without `not_older_than` the list is consistent; with it, it may come from a cache that is so far.

        Raises:
            Expired: it took so long that the server forgot the version of the first page.
            Stale: the server is behind `not_older_than`.
        """
        query = {"labelSelector": selector, "limit": str(PAGE)}
        if not_older_than:
            query |= {"resourceVersion": not_older_than, "resourceVersionMatch": "NotOlderThan"}
        items: list[Json] = []
        while True:
            reply = await self.call("GET", self._path("", "v1", "pods"), query)
            page, meta = reply.get("items"), _object(reply, "metadata")
            items += [each for each in page if isinstance(each, dict)] if isinstance(page, list) else []
            if not meta.get("continue"):
                return items, str(meta.get("resourceVersion", ""))
            query = {"labelSelector": selector, "limit": str(PAGE), "continue": str(meta["continue"])}

    async def watch_pods(
        self, selector: str, version: str, timeout_s: int
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Changes after `version`, as (type, object), bookmarks included; ends after `timeout_s`.

        Raises:
            Expired: changes after `version` are forgotten.
        """
        query = {
            "labelSelector": selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(timeout_s),
        }
        # One that says nothing, bookmarks included, for longer than it should last is no watch.
        response = await self._open(
            "GET", self._path("", "v1", "pods"), query, None, "", timeout_s + CALL_TIMEOUT_S
        )
        try:
            if response.status != 200:
                raise await _error(response, "watching pods")
            while line := await response.response.content.readline():
                yield event_of(line)
        except ValueError as error:  # a line without end
            raise Unavailable(f"watching pods: the server sent what is no event: {error}") from error
        except _breaks() as error:
            raise Unavailable(f"watching pods: the connection broke: {_words(error)}") from error
        finally:
            response.response.close()

    async def read_lease(self, name: str) -> Json:
        """Raises NotFound where there is none."""
        return await self.call("GET", self._path("coordination.k8s.io", "v1", "leases", name))

    async def create_lease(self, body: Json) -> Json:
        """Raises AlreadyExists when another was faster."""
        return await self.call("POST", self._path("coordination.k8s.io", "v1", "leases"), body=body)

    async def replace_lease(self, name: str, body: Json) -> Json:
        """`body` holds the version that it replaces. Raises Conflict when that is not the present one."""
        return await self.call("PUT", self._path("coordination.k8s.io", "v1", "leases", name), body=body)

    async def read_scale(self, stateful_set: str) -> Json:
        """How many pods a StatefulSet should have."""
        return await self.call("GET", self._path("apps", "v1", "statefulsets", stateful_set, "scale"))

    async def set_scale(self, stateful_set: str, replicas: int, version: str) -> Json:
        """Change it, unless it was changed since it was read as `version`: then Conflict."""
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        path = self._path("apps", "v1", "statefulsets", stateful_set, "scale")
        return await self.call("PATCH", path, {"fieldManager": "tandem"}, body, content_type=MERGE_PATCH)

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        *,
        content_type: str = "application/json",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Json:
        """One request. Raises the typed error that its status stands for."""
        doing = f"{method} {path}"
        response = await self._open(method, path, query or {}, body, content_type, timeout_s)
        try:
            if not 200 <= response.status < 300:
                raise await _error(response, doing)
            reply = json.loads(await _read(response))
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{doing}: the reply is no JSON") from error
        except _breaks() as error:
            raise Unavailable(f"{doing}: the connection broke: {_words(error)}") from error
        finally:
            response.response.release()
        if not isinstance(reply, dict):
            raise Unavailable(f"{doing}: the reply is no object")
        return reply

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None,
        content: str,
        timeout_s: float,
    ) -> Any:
        from aiohttp import ClientTimeout

        headers = {"Accept": "application/json"} | ({"Content-Type": content} if content else {})
        try:
            method, url, headers, body, _ = await self._client.param_serialize(
                method, path, query_params=list(query.items()), header_params=headers, body=body,
                auth_settings=["BearerToken"],
            )  # fmt: skip
            return await self._client.call_api(
                method, url, header_params=headers, body=body, _request_timeout=ClientTimeout(total=timeout_s)
            )
        except _breaks() as error:
            await self._renew(error)
            raise Unavailable(f"{method} {path}: cannot reach the Kubernetes API: {_words(error)}") from error

    async def _renew(self, error: Exception) -> None:
        """The authority of a cluster may change; the client has read its file once."""
        from aiohttp import ClientConnectorCertificateError, ClientSSLError

        is_distrust = isinstance(error, ClientConnectorCertificateError | ClientSSLError)
        if self._again is not None and is_distrust and authority(self._client) != self._trusted:
            self._former.append(self._client)
            self._client = await self._again()
            self._trusted = authority(self._client)

    def _path(self, group: str, version: str, *parts: str) -> str:
        root = f"/apis/{group}/{version}" if group else f"/api/{version}"
        place = "/".join(quote(part, safe="") for part in parts)
        return f"{root}/namespaces/{quote(self.namespace, safe='')}/{place}"


def event_of(line: bytes) -> tuple[str, Json]:
    """Type and object of one line of a watch.

    Raises what an ERROR stands for, and Unavailable for what is no event.
    """
    try:
        event = json.loads(line)
        kind, item = event["type"], event["object"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unavailable(f"watching pods: the server sent what is no event: {error}") from error
    if not isinstance(kind, str) or not isinstance(item, dict):
        raise Unavailable("watching pods: the server sent what is no event")
    if kind == "ERROR":
        code = item.get("code")
        raise _typed(code if type(code) is int else 500, item, "watching pods", None)
    return kind, item


def _breaks() -> tuple[type[Exception], ...]:
    """What a connection that breaks, or takes too long, raises."""
    from aiohttp import ClientError

    return ClientError, OSError, TimeoutError


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _read(response: Any) -> bytes:
    data = bytearray()
    async for piece in response.response.content.iter_any():
        data += piece
        if len(data) > MAX_REPLY_BYTES:
            raise Unavailable(f"a reply is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(data)


async def _error(response: Any, doing: str) -> TandemError:
    try:
        status = json.loads(await _read(response))
    except (ValueError, RecursionError):
        status = {}
    after = response.headers.get("Retry-After", "")
    retry_after_s = float(after) if after.isdecimal() else None
    return _typed(response.status, status if isinstance(status, dict) else {}, doing, retry_after_s)


def _typed(code: int, status: Json, doing: str, retry_after_s: float | None) -> TandemError:
    words = f"{doing}: {str(status.get('message', '') or f'status {code}')[:MAX_MESSAGE]}"
    reason = status.get("reason", "")
    if code in {401, 403}:
        return PermissionRefused(words)
    if code == 404:
        return NotFound(words)
    if code == 409:
        return AlreadyExists(words) if reason == "AlreadyExists" else Conflict(words)
    if code == 410:
        return Expired(words)
    if code == 429:
        return LimitExceeded(words, retry_after_s=retry_after_s or 1.0)
    if code == 504 and "Too large resource version" in words:
        return Stale(words, retry_after_s=retry_after_s or 1.0)
    if code >= 500:
        return Unavailable(words, retry_after_s=retry_after_s)
    return InvalidInput(words) if 400 <= code < 500 else Internal(words)


def _object(value: Json, key: str) -> Json:
    found = value.get(key)
    return found if isinstance(found, dict) else {}
