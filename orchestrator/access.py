"""Pure. What a caller of the front door may do and see, and the file that says so for each token.

The file is TOML with a table for each token: its SHA-256 in hex, never the token itself, whose streams it is
for, and what it may do::

    [[token]]
    name = "cameras at the gate"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    tenant = "acme"
    rights = ["watch", "ask"]

``version = 1`` may stand above the first table; without it that is what the file is.

Tokens are long and random (`tandem token` makes them): a plain hash of one cannot be turned back, and looking
it up among others tells by its time nothing about what another begins with.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from orchestrator.terms import DEFAULT_TENANT
from tandem.core.errors import InvalidInput, PermissionRefused
from tandem.core.ids import is_valid_id
from tandem.core.versions import Spoken, unread

VERSION = 1
"""Of the file."""
WATCH, ASK, ADMIN = "watch", "ask", "admin"
RIGHTS = (WATCH, ASK, ADMIN)
"""To feed streams and end them; to ask about them; to see all tenants' streams and services, and to drain."""
MIN_TOKEN_CHARS, MAX_TOKEN_CHARS = 20, 512
MAX_TOKENS = 10_000
_SCHEME = "bearer "
_FIELDS = frozenset({"name", "sha256", "tenant", "rights"})
_DIGEST_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls, as far as it matters."""

    name: str
    """For logs; never the token."""
    tenant: str
    rights: frozenset[str]
    is_trusted: bool = False
    """Its word on whose stream it opens counts: there are no tokens, or it may do everything."""

    @property
    def is_admin(self) -> bool:
        """True when it may see everything."""
        return ADMIN in self.rights

    def must(self, right: str, doing: str) -> None:
        """Raises `PermissionRefused` unless it has the right."""
        if right not in self.rights and not self.is_admin:
            raise PermissionRefused(f"{doing} needs a token with the right {right!r}")

    def sees(self, tenant: str) -> bool:
        """True for a tenant whose streams it may know of."""
        return self.is_admin or tenant == self.tenant

    def tenant_for(self, asked: str) -> str:
        """Whose a new stream is. Raises `PermissionRefused` when it asks for another's."""
        if asked and asked != self.tenant and not self.is_trusted:
            raise PermissionRefused(f"this token is for streams of {self.tenant}, not of {asked[:64]!r}")
        return asked or self.tenant


ANYONE = Caller(name="", tenant=DEFAULT_TENANT, rights=frozenset(RIGHTS), is_trusted=True)
"""Every caller, where there are no tokens."""

Tokens = Mapping[str, Caller]
"""By SHA-256 of the token, in hex."""


def digest(token: str) -> str:
    """How a token is written down."""
    return hashlib.sha256(token.encode()).hexdigest()


def caller_of(tokens: Tokens | None, authorization: str) -> Caller:
    """Who calls with this ``authorization`` in the call's metadata; `tokens` None: everybody may.

    Raises `PermissionRefused` that does not say more than that it is no good.
    """
    if tokens is None:
        return ANYONE
    if not authorization:
        raise PermissionRefused("this needs a token: name its file with --token-file")
    token = authorization[len(_SCHEME) :].strip()
    known = authorization[: len(_SCHEME)].lower() == _SCHEME and len(token) <= MAX_TOKEN_CHARS
    caller = tokens.get(digest(token)) if known else None
    if caller is None:
        raise PermissionRefused("the token is not known here")
    return caller


def parse_tokens(text: str, what: str) -> dict[str, Caller]:
    """The tokens of a file's text; `what` names it. Raises `InvalidInput` that lists every problem."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is no TOML: {error}") from error
    version, tables = data.pop("version", VERSION), data.pop("token", [])
    if type(version) is not int or version != VERSION:
        raise InvalidInput(f"{what}: {unread('a file of tokens', version, Spoken(VERSION, VERSION))}")
    if data or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidInput(f"{what}: expected [[token]] tables and nothing else")
    if not 0 < len(tables) <= MAX_TOKENS:
        raise InvalidInput(f"{what} has {len(tables)} tokens, 1 to {MAX_TOKENS} are expected")
    tokens: dict[str, Caller] = {}
    problems: list[str] = []
    for number, table in enumerate(tables, 1):
        found = list(_problems(table, tokens))
        problems += [f"{what}: token {number}: {problem}" for problem in found]
        if not found:
            rights = frozenset(table.get("rights", [WATCH, ASK]))
            tenant = table.get("tenant", DEFAULT_TENANT)
            name = table.get("name", f"token {number}")
            tokens[table["sha256"]] = Caller(
                name=name, tenant=tenant, rights=rights, is_trusted=ADMIN in rights
            )
    if problems:
        raise InvalidInput("\n".join(problems))
    return tokens


def _problems(table: Mapping[str, object], known: Collection[str]) -> list[str]:
    found = [f"{name!r} is no field of a token" for name in sorted(set(table) - _FIELDS)]
    sha256 = table.get("sha256")
    if not isinstance(sha256, str) or len(sha256) != _DIGEST_CHARS or set(sha256) - set("0123456789abcdef"):
        found.append("sha256 must be 64 hex digits: the SHA-256 of the token, which `tandem token` prints")
    elif sha256 in known:
        found.append("its sha256 is that of another")
    tenant, rights = table.get("tenant", DEFAULT_TENANT), table.get("rights", [WATCH, ASK])
    if not isinstance(tenant, str) or not is_valid_id(tenant):
        found.append(f"tenant {str(tenant)[:64]!r} is not 1 to 64 characters of [A-Za-z0-9._-]")
    if not isinstance(rights, list) or not rights or not all(right in RIGHTS for right in rights):
        found.append(f"rights must be some of {', '.join(RIGHTS)}")
    if not isinstance(table.get("name", ""), str):
        found.append("name must be text")
    return found
