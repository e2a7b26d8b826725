"""Patches, selectors and server-side apply, on plain JSON objects."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import Any

from tests.kube.problems import ApiProblem, bad_request

Path = tuple[str, ...]
_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)(?P<no>[\w./-]+)|(?P<key>[\w./-]+)"
    r"(?:\s*(?P<op>==|=|!=)\s*(?P<value>[\w.-]*)|\s+(?P<set>in|notin)\s*\((?P<values>[^)]*)\))?)\s*(?:,|$)"
)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """Like a merge patch, but lists of named objects are merged by name (containers, env, ports, volumes)."""
    if isinstance(patch, list) and isinstance(target, list) and _are_named(patch) and _are_named(target):
        merged = {item["name"]: item for item in target}
        for item in patch:
            merged[item["name"]] = strategic_merge(merged.get(item["name"]), item)
        return list(merged.values())
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = strategic_merge(result.get(key), value)
    return result


def _are_named(items: list[Any]) -> bool:
    return all(isinstance(item, dict) and "name" in item for item in items)


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902: add, remove, replace, test. A test that fails is 422, as of the real server."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    for each in operations:
        path = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")[1:]]
        try:
            result = _apply(result, path, each)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            why = f"the server rejected our request due to an error in our request: {error!r}"
            raise ApiProblem(422, "Invalid", why) from error
    return result


def _apply(root: Any, path: list[str], operation: dict[str, Any]) -> Any:
    if not path:
        return copy.deepcopy(operation["value"])
    parent = root
    for part in path[:-1]:
        parent = parent[int(part)] if isinstance(parent, list) else parent[part]
    key: Any = path[-1]
    if isinstance(parent, list) and key != "-":
        key = int(key)
    match operation["op"]:
        case "add" if isinstance(parent, list):
            parent.insert(len(parent) if key == "-" else key, copy.deepcopy(operation["value"]))
        case "add":
            parent[key] = copy.deepcopy(operation["value"])
        case "replace":
            _ = parent[key]
            parent[key] = copy.deepcopy(operation["value"])
        case "remove":
            del parent[key]
        case "test":
            if parent[key] != operation["value"]:
                raise ValueError(f"testing value {operation['path']} failed")
        case other:
            raise ValueError(f"unexpected kind: {other}")
    return root


def leaves(value: Any, at: Path = ()) -> Iterable[tuple[Path, Any]]:
    """Every value that is no object, with its path; a list counts as one value."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, (*at, key))
    else:
        yield at, value


def get_at(value: Any, path: Path) -> Any:
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def remove_at(value: dict[str, Any], path: Path) -> None:
    """Remove a leaf, and objects that are empty then."""
    if not path or not isinstance(value, dict) or path[0] not in value:
        return
    if len(path) == 1:
        del value[path[0]]
        return
    remove_at(value[path[0]], path[1:])
    if value[path[0]] == {}:
        del value[path[0]]


def owned(applied: dict[str, Any]) -> dict[Path, Any]:
    """The fields that whoever applies an object wants to own."""
    skip = {("apiVersion",), ("kind",), ("metadata", "name"), ("metadata", "namespace")}
    return {path: value for path, value in leaves(applied) if path not in skip and path[:1] != ("status",)}


def labels_match(selector: str, labels: dict[str, str]) -> bool:
    """``a=b,c!=d,e in (f,g),h notin (i),j,!k``; raises for what is no selector."""
    at = 0
    while at < len(selector):
        found = _REQUIREMENT.match(selector, at)
        if found is None or found.end() == at:
            raise bad_request(f"unable to parse requirement: {selector!r}")
        at = found.end()
        if not _holds(found, labels):
            return False
    return True


def _holds(found: re.Match[str], labels: dict[str, str]) -> bool:
    if found["absent"]:
        return found["no"] not in labels
    value = labels.get(found["key"])
    if found["set"]:
        inside = value in [part.strip() for part in found["values"].split(",")]
        return inside if found["set"] == "in" else not inside
    if found["op"] is None:
        return value is not None
    return (value != found["value"]) if found["op"] == "!=" else value == found["value"]


def fields_match(selector: str, item: dict[str, Any]) -> bool:
    """``metadata.name=a,status.phase!=Running``."""
    for term in filter(None, selector.split(",")):
        key, sign, value = re.split(r"(!=|==|=)", term, maxsplit=1) if "=" in term else (term, "", "")
        if not sign:
            raise bad_request(f"invalid selector: {selector!r}")
        actual = get_at(item, tuple(key.split(".")))
        if ((actual or "") == value) is (sign == "!="):
            return False
    return True
