"""What clients ask a server about itself: versions, groups, kinds, and as much OpenAPI as Helm 4 reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.kube.resources import Resource

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def version(number: str) -> dict[str, str]:
    major, minor = number.split(".")[:2]
    return {"major": major, "minor": minor, "gitVersion": f"v{number}.0", "platform": "linux/amd64"}


def groups(resources: Iterable[Resource]) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for each in resources:
        if each.group and each.version not in found.setdefault(each.group, []):
            found[each.group].append(each.version)
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": name,
                "versions": [{"groupVersion": f"{name}/{v}", "version": v} for v in versions],
                "preferredVersion": {"groupVersion": f"{name}/{versions[0]}", "version": versions[0]},
            }
            for name, versions in found.items()
        ],
    }


def kinds(resources: Iterable[Resource], group: str, group_version: str) -> dict[str, Any]:
    entries = []
    for each in resources:
        if each.group != group or each.version != group_version:
            continue
        common = {"namespaced": each.namespaced, "kind": each.kind, "singularName": each.singular}
        entries.append({"name": each.plural, "verbs": _VERBS, **common})
        if each.has_status:
            entries.append({"name": f"{each.plural}/status", "verbs": ["get", "patch", "update"], **common})
        if each.has_scale:
            scale = {"kind": "Scale", "group": "autoscaling", "version": "v1"}
            verbs = ["get", "patch", "update"]
            entries.append({"name": f"{each.plural}/scale", "verbs": verbs, **common, **scale})
    name = f"{group}/{group_version}" if group else group_version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def openapi_index(resources: Iterable[Resource]) -> dict[str, Any]:
    prefixes = dict.fromkeys(each.prefix.strip("/") for each in resources)
    return {"paths": {prefix: {"serverRelativeURL": f"/openapi/v3/{prefix}?hash=1"} for prefix in prefixes}}


def openapi(resources: Iterable[Resource], prefix: str) -> dict[str, Any]:
    """Of one group and version: that each kind can be patched, and that fields are validated."""
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in ("dryRun", "fieldManager", "fieldValidation", "force")
    ]
    paths = {}
    for each in resources:
        if each.prefix.strip("/") != prefix:
            continue
        place = f"{each.prefix}/namespaces/{{namespace}}" if each.namespaced else each.prefix
        gvk = {"group": each.group, "version": each.version, "kind": each.kind}
        paths[f"{place}/{each.plural}/{{name}}"] = {
            "patch": {
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": gvk,
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
            }
        }
    info = {"title": "Kubernetes", "version": "v1"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}
