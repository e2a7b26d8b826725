"""Pure. What each tenant may have, from a TOML file, and whether one more of something fits.

::

    [default]                  # tenants without a table of their own; without it they are refused
    streams = 8

    [tenants.acme]
    weight = 2.0               # its share under overload, against another's
    streams = 20
    units_per_second = 40.0    # temporal units of the model that its streams ask for together
    open_questions = 16
    bytes = 2_000_000_000      # windows in the reasoners' RAM and media kept for replay

What is left out, or 0, is not limited.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.admission import retry_after
from orchestrator.capacity import Held
from orchestrator.terms import DEFAULT_TENANT
from tandem.core.errors import InvalidInput, LimitExceeded, PermissionRefused
from tandem.core.ids import is_valid_id

MAX_FILE_BYTES = 1 << 20
MAX_TENANTS = 10_000
MOST = 2**63 - 1
MAX_WEIGHT, MIN_WEIGHT = 1e6, 1e-6
LEAST_MEDIA_BYTES = 4 * 1024 * 1024
"""What a stream may keep for replay whatever its tenant has: decoding can only begin again at a key frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """One tenant's limits; 0: none."""

    weight: float = 1.0
    streams: int = 0
    units_per_second: float = 0.0
    open_questions: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Those of all tenants."""

    tenants: Mapping[str, Quota] = field(default_factory=dict)
    default: Quota | None = Quota()
    """Of a tenant that is not named; None: it is refused."""

    def of(self, tenant: str) -> Quota:
        """Raises `PermissionRefused` for a tenant that may not open anything."""
        quota = self.tenants.get(tenant, self.default)
        if quota is None:
            raise PermissionRefused(f"tenant {tenant!r} is not in the file of quotas, which has no [default]")
        return quota

    def kept(self, tenant: str) -> Quota:
        """Of a tenant that was let in once: one that the file does not name any more keeps its streams."""
        return self.tenants.get(tenant, self.default) or Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a stream counts for."""

    units_per_second: float
    bytes: float


def check_tenant(name: str) -> str:
    """The tenant's name; empty is the default one. Raises `InvalidInput`."""
    if name and not is_valid_id(name):
        raise InvalidInput(f"not a tenant: {name[:80]!r} (expected 1 to 64 characters of [A-Za-z0-9._-])")
    return name or DEFAULT_TENANT


def check_stream(
    tenant: str,
    quota: Quota,
    wish: Cost,
    held: Sequence[tuple[Cost, Held]],
    *,
    now_s: float,
    life_s: float,
) -> None:
    """Raises `LimitExceeded` that names the quota, with a time to come again, unless one more stream fits.

    `held`: the tenant's streams with what they count for.
    """
    amounts = {
        "streams": (1.0, float(quota.streams), [1.0 for _ in held]),
        "units_per_second": (
            wish.units_per_second,
            quota.units_per_second,
            [cost.units_per_second for cost, _ in held],
        ),
        "bytes": (wish.bytes, float(quota.bytes), [cost.bytes for cost, _ in held]),
    }
    for name, (more, limit, used) in amounts.items():
        missing = sum(used) + more - limit
        if not limit or missing <= 1e-9:
            continue
        words = f"tenant {tenant} has {sum(used):.6g} of {limit:.6g} {name}; this stream needs {more:.6g}"
        if more > limit:
            raise LimitExceeded(f"{words}, more than the quota ever allows")
        frees = [(amount, stream) for amount, (_, stream) in zip(used, held, strict=True)]
        raise LimitExceeded(words, retry_after_s=retry_after(missing, frees, now_s=now_s, life_s=life_s))


def media_bytes(quota: Quota, streams: int, window_bytes: float) -> int | None:
    """What each of a tenant's `streams` may keep for replay, each with such a window; None: no limit.

    An even share of what windows leave, so that none of them can take what another was let in with.
    """
    if not quota.bytes or not streams:
        return None
    return max(int(quota.bytes / streams - window_bytes), LEAST_MEDIA_BYTES)


def check_question(tenant: str, quota: Quota, open_questions: int, answer_s: float) -> None:
    """Raises `LimitExceeded` unless one more question fits; `answer_s` is how long answers take of late."""
    if quota.open_questions and open_questions >= quota.open_questions:
        raise LimitExceeded(
            f"{open_questions} questions of tenant {tenant} are open, at most {quota.open_questions}",
            retry_after_s=max(answer_s / open_questions, 0.1),
        )


def read_quotas(path: Path) -> Quotas:
    """The quotas in a file. Raises `InvalidInput` that names every problem, one a line."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"quotas: cannot read {path}: {error.strerror}") from error
    if len(text) > MAX_FILE_BYTES:
        raise InvalidInput(f"quotas: {path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_quotas(text.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"quotas: {path} is not TOML: {error}") from error


def parse_quotas(text: str) -> Quotas:
    """The quotas in a text. Raises `InvalidInput`, or tomllib's own errors."""
    data = tomllib.loads(text)
    tables = data.get("tenants", {})
    problems = [f"quotas: {key}: expected [default] and [tenants.NAME]" for key in data if key not in _TABLES]
    if not isinstance(tables, dict) or len(tables) > MAX_TENANTS:
        raise InvalidInput(f"quotas: tenants: expected at most {MAX_TENANTS} tables [tenants.NAME]")
    default = _quota("default", data["default"], problems) if "default" in data else None
    tenants = {}
    for name, table in tables.items():
        if not is_valid_id(name):
            problems.append(f"quotas: {name[:80]!r} is not 1 to 64 characters of [A-Za-z0-9._-]")
        tenants[name] = _quota(f"tenants.{name}", table, problems)
    if problems:
        raise InvalidInput("\n".join(problems))
    return Quotas(tenants=tenants, default=default)


_TABLES = ("default", "tenants")
_KINDS = {item.name: float if item.default.__class__ is float else int for item in dataclasses.fields(Quota)}


def _quota(where: str, table: object, problems: list[str]) -> Quota:
    if not isinstance(table, dict):
        problems.append(f"quotas: {where} is not a table")
        return Quota()
    found: dict[str, float | int] = {}
    for key, value in table.items():
        kind = _KINDS.get(key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value <= MOST
        if kind is None:
            problems.append(f"quotas: {where}.{key} is not known (known: {', '.join(_KINDS)})")
        elif not is_number or value < 0 or (kind is int and not isinstance(value, int)):
            whole = "a whole number" if kind is int else "a number"
            problems.append(f"quotas: {where}.{key} is {value!r}: expected {whole} of at least 0")
        elif key == "weight" and not MIN_WEIGHT <= value <= MAX_WEIGHT:
            problems.append(f"quotas: {where}.weight is {value!r}: expected {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")
        else:
            found[key] = kind(value)
    return Quota(**found)  # type: ignore[arg-type]
