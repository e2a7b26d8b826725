"""What the server refuses about an object before it is stored: names, schema, selectors."""

from __future__ import annotations

import functools
import re
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate import utils
from referencing import Registry
from referencing import Resource as Referenced

from tests.kube.patching import get_at
from tests.kube.problems import ApiProblem, bad_request, invalid
from tests.kube.resources import Resource

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_RBAC_NAME = re.compile(r"[^/%]{1,253}")
_UNEXPECTED = re.compile(r"'([^']+)'")
_LABEL_KINDS = {"Service", "Namespace"}


def check_name(resource: Resource, name: str) -> None:
    rule = _LABEL if resource.kind in _LABEL_KINDS else _NAME
    if resource.group == "rbac.authorization.k8s.io":
        rule = _RBAC_NAME
    if not rule.fullmatch(name):
        raise invalid(resource.kind, name, "metadata.name", f'Invalid value: "{name}": not a valid name')


@functools.cache
def validator(kind: str, api_version: str, version: str) -> Draft202012Validator | None:
    """As `kubernetes_validate.validate(..., strict=True)`, which reads megabytes of JSON each time."""
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    name = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    try:
        schema = utils.schema_contents(f"{folder}/{kind.lower()}-{name}.json", version)
    except FileNotFoundError:
        return None
    return Draft202012Validator(schema, registry=_registry(folder, version))


@functools.cache
def _registry(folder: str, version: str) -> Registry[Any]:
    definitions = utils.schema_contents(f"{folder}/_definitions.json", version)
    return Referenced.from_contents(definitions) @ Registry()


def check_schema(resource: Resource, item: dict[str, Any], version: str, validation: str) -> list[str]:
    """Raise for what the server could not decode or store; returns warnings about fields it does not know.

    Unknown fields are removed from `item` unless `validation` is Strict, as a real server prunes them.
    """
    warnings: list[str] = []
    found = validator(resource.kind, resource.api_version, version) if resource.has_schema else None
    while found is not None:
        try:
            found.validate(item)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            if error.validator == "additionalProperties":
                unknown = _UNEXPECTED.findall(error.message)
                if validation == "Strict":
                    fields = ", ".join(
                        f'unknown field "{f"{where}." if where else ""}{it}"' for it in unknown
                    )
                    raise bad_request(
                        f"{resource.kind} in version {resource.version!r} cannot be handled as a "
                        f"{resource.kind}: strict decoding error: {fields}"
                    ) from None
                parent: Any = item
                for part in error.path:
                    parent = parent[part]
                for name in unknown:
                    warnings.append(f'unknown field "{f"{where}." if where else ""}{name}"')
                    del parent[name]
                continue
            name = str(get_at(item, ("metadata", "name")))
            if error.validator == "required":
                raise invalid(resource.kind, name, where, f"Required value: {error.message}") from None
            raise bad_request(
                f"{resource.kind} {name}: {where}: json: cannot unmarshal: {error.message}"
            ) from None
        break
    return warnings


def check_semantics(resource: Resource, item: dict[str, Any], former: dict[str, Any] | None) -> None:
    """Rules that no schema says."""
    name = item["metadata"]["name"]
    if resource.kind in {"Deployment", "StatefulSet", "ReplicaSet", "DaemonSet"}:
        selector = get_at(item, ("spec", "selector", "matchLabels")) or {}
        labels = get_at(item, ("spec", "template", "metadata", "labels")) or {}
        if any(labels.get(key) != value for key, value in selector.items()):
            why = "`selector` does not match template `labels`"
            raise invalid(resource.kind, name, "spec.template.metadata.labels", why)
        if former is not None and get_at(former, ("spec", "selector")) != get_at(item, ("spec", "selector")):
            raise invalid(resource.kind, name, "spec.selector", "field is immutable")
        check_replicas(resource, name, get_at(item, ("spec", "replicas")))
    if resource.kind == "StatefulSet" and former is not None:
        _check_stateful_set(item, former)
    if resource.kind == "Pod":
        names = [each["name"] for each in item["spec"]["containers"]]
        if len(set(names)) != len(names):
            raise invalid("Pod", name, "spec.containers", "Duplicate value: container names")
    if resource.kind == "Lease":
        length = get_at(item, ("spec", "leaseDurationSeconds"))
        if length is not None and length <= 0:
            raise invalid("Lease", name, "spec.leaseDurationSeconds", "must be greater than 0")
        transitions = get_at(item, ("spec", "leaseTransitions"))
        if transitions is not None and transitions < 0:
            raise invalid("Lease", name, "spec.leaseTransitions", "must be greater than or equal to 0")


_CHANGEABLE = {
    *("replicas", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy"),
    *("minReadySeconds", "ordinals", "revisionHistoryLimit"),
}


def _check_stateful_set(item: dict[str, Any], former: dict[str, Any]) -> None:
    keys = (set(item["spec"]) | set(former["spec"])) - _CHANGEABLE
    if any(item["spec"].get(key) != former["spec"].get(key) for key in keys):
        why = "updates to statefulset spec for fields other than 'replicas', 'template', … are forbidden"
        raise ApiProblem(
            422,
            "Invalid",
            f'StatefulSet.apps "{item["metadata"]["name"]}" is invalid: spec: Forbidden: {why}',
        )


def check_replicas(resource: Resource, name: str, replicas: Any) -> None:
    if isinstance(replicas, int) and replicas < 0:
        why = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid(resource.kind, name, "spec.replicas", why)
