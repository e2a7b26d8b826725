"""Server-side apply: who owns which field, conflicts, and fields that their owner gives up."""

from __future__ import annotations

import copy
from typing import Any

from tests.kube.patching import Path, get_at, leaves, merge_patch, owned, remove_at
from tests.kube.problems import ApiProblem, bad_request
from tests.kube.store import Key, now_text


class Owners:
    """Of every object, by manager. A field may have several owners while they agree."""

    def __init__(self) -> None:
        self._of: dict[Key, dict[str, set[Path]]] = {}
        self._applied: dict[Key, set[str]] = {}
        self._through: dict[tuple[Key, str], str] = {}
        """The subresource that a manager wrote through last."""

    def apply(
        self, key: Key, manager: str, former: dict[str, Any] | None, wanted: dict[str, Any], *, force: bool
    ) -> dict[str, Any]:
        """The object after an apply. Raises 409 with the owners of what differs, unless `force`."""
        if not manager:
            raise bad_request(
                "PatchOptions is invalid: fieldManager: Required value: is required for apply patch"
            )
        fields = owned(wanted)
        managers = self._of.setdefault(key, {})
        present = former or {}
        causes = []
        for path, value in fields.items():
            if get_at(present, path) == value or former is None:
                continue
            for other, paths in managers.items():
                if other != manager and path in paths:
                    if force:
                        paths.discard(path)
                    else:
                        field = "." + ".".join(path)
                        causes.append(
                            {
                                "reason": "FieldManagerConflict",
                                "field": field,
                                "message": f'conflict with "{other}"',
                            }
                        )
        if causes:
            words = ", ".join(f"{each['message']}: {each['field']}" for each in causes)
            raise ApiProblem(
                409, "Conflict", f"Apply failed with {len(causes)} conflict(s): {words}", causes=causes
            )
        result = merge_patch(copy.deepcopy(present), wanted)
        given_up = (
            managers.get(manager, set()) - set(fields) if manager in self._applied.get(key, ()) else set()
        )
        for path in given_up:
            if not any(path in paths for other, paths in managers.items() if other != manager):
                remove_at(result, path)
        managers[manager] = set(fields)
        self._applied.setdefault(key, set()).add(manager)
        return result

    def wrote(
        self, key: Key, manager: str, former: dict[str, Any] | None, item: dict[str, Any], part: str = ""
    ) -> None:
        """Somebody created, replaced or patched an object, or a `part` of it: what differs is theirs now."""
        self._through[key, manager] = part
        changed = {
            path for path, value in leaves(item)
            if path[0] not in {"status", "apiVersion", "kind"} and get_at(former or {}, path) != value
            and path not in _SERVERS
        }  # fmt: skip
        managers = self._of.setdefault(key, {})
        for paths in managers.values():
            paths -= changed
        managers.setdefault(manager, set()).update(changed)

    def forget(self, key: Key) -> None:
        self._of.pop(key, None)
        self._applied.pop(key, None)

    def told(self, key: Key, api_version: str) -> list[dict[str, Any]]:
        """As `metadata.managedFields`."""
        return [
            {
                "manager": manager,
                "operation": "Apply" if manager in self._applied.get(key, ()) else "Update",
                "apiVersion": api_version,
                "time": now_text(),
                "fieldsType": "FieldsV1",
                "fieldsV1": _nested(paths),
                **({"subresource": part} if (part := self._through.get((key, manager), "")) else {}),
            }
            for manager, paths in sorted(self._of.get(key, {}).items())
            if paths
        ]


_SERVERS = {
    ("metadata", field)
    for field in ("uid", "resourceVersion", "generation", "creationTimestamp", "name", "namespace")
}


def _nested(paths: set[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(paths):
        node = tree
        for part in path:
            node = node.setdefault(f"f:{part}", {})
    return tree
