"""Shell: placement groups of Ray by name, over all namespaces: Ray itself looks a name up in one only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GroupState:
    """One placement group that is not removed."""

    name: str
    id_hex: str
    has_room: bool
    """All its bundles have their resources; false while Ray looks for a node, at first or after a loss."""


def table() -> dict[str, GroupState]:
    """All placement groups that have a name and are not removed."""
    import ray

    return {
        row["name"]: GroupState(row["name"], row["placement_group_id"], row["state"] == "CREATED")
        for row in ray.util.placement_group_table().values()
        if row["name"] and row["state"] != "REMOVED"
    }


def handle(group: GroupState) -> Any:
    """As Ray's own functions take it."""
    import ray
    from ray.util.placement_group import PlacementGroup

    return PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group.id_hex)))


def remove(groups: Collection[GroupState]) -> None:
    """Give their resources back. Kill the actors before: else Ray tries to restart them for ever."""
    import ray

    for group in groups:
        ray.util.remove_placement_group(handle(group))
