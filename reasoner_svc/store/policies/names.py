"""Pure. Eviction policies by name."""

from __future__ import annotations

from collections.abc import Callable

from reasoner_svc.store.policies.base import EvictionPolicy
from reasoner_svc.store.policies.importance import LeastImportant
from reasoner_svc.store.policies.lru import LeastRecentlyUsed
from reasoner_svc.store.policies.oldest_first import OldestFirst

POLICIES: dict[str, Callable[[], EvictionPolicy]] = {
    policy.name: policy for policy in (LeastRecentlyUsed, OldestFirst, LeastImportant)
}
