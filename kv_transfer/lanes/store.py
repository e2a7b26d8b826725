"""Shell. A `torch.distributed` store over a lane's rendezvous, so that no listening store is needed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from torch._C._distributed_c10d import Store

from kv_transfer.lanes.base import LaneStore


class ControlStore(Store):
    """What a two-rank process group needs of a store: set, get, wait, check."""

    def __init__(self, store: LaneStore, prefix: str, timeout_s: float) -> None:
        super().__init__()
        self._store = store
        self._prefix = prefix
        self._timeout_s = timeout_s

    def set(self, key: str, value: bytes | str) -> None:
        """Set a key at both ends."""
        self._store.set(f"{self._prefix}/{key}", value if isinstance(value, bytes) else value.encode())

    def get(self, key: str) -> bytes:
        """Wait for a key. Raises LaneBroken, also through torch, when it does not come."""
        return self._store.get(f"{self._prefix}/{key}", self._timeout_s)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait for several keys."""
        for key in keys:
            self.get(key)

    def check(self, keys: Sequence[str]) -> bool:
        """True when all keys are set."""
        return self._store.has(f"{self._prefix}/{key}" for key in keys)
