"""Pure: what a container's command and environment come to, as a kubelet works them out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Item = dict[str, Any]
REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes what it stands for, `$$` one dollar; what nothing stands for stays."""

    def one(found: re.Match[str]) -> str:
        name = found.group(1)
        return "$" if name is None else variables.get(name, found.group(0))

    return REFERENCE.sub(one, text)


def environment(
    container: Item, pod: Item, address: str, secret_key: Callable[[str, str], str]
) -> dict[str, str]:
    """The variables that a container names itself."""
    fields = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": address,
    }
    result: dict[str, str] = {}
    for each in container.get("env", []):
        source = each.get("valueFrom", {})
        if "fieldRef" in source:
            result[each["name"]] = fields[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            result[each["name"]] = secret_key(source["secretKeyRef"]["name"], source["secretKeyRef"]["key"])
        else:
            result[each["name"]] = expand(each.get("value", ""), result)
    return result


def command(container: Item, variables: Mapping[str, str]) -> list[str]:
    """Program and arguments."""
    return [expand(word, variables) for word in [*container.get("command", []), *container.get("args", [])]]


def quantity(text: str) -> int:
    """Bytes of `4Gi`, `500M` or `1024`."""
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9}
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return int(float(number) * units.get(unit, 1))
