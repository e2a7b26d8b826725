"""Pure. The versions of a protocol that two ends speak, and the one that both will use.

Each end says the lowest and the newest that it speaks. The *lowest* stands where a peer from before ranges
(0.1.0) looks for the only one, so such a peer is still talked to as long as its version is in the range.
`docs/upgrades.md` says what is compatible with what.
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.errors import Incompatible, InvalidInput


@dataclass(frozen=True, slots=True)
class Spoken:
    """The versions ``lowest`` to ``newest``, both included."""

    lowest: int
    newest: int

    def __str__(self) -> str:
        return f"{self.lowest}" if self.lowest == self.newest else f"{self.lowest} to {self.newest}"

    def __contains__(self, version: int) -> bool:
        return self.lowest <= version <= self.newest


def read_spoken(lowest: int, newest: int) -> Spoken:
    """What a peer says that it speaks; `newest` 0: it knows of no ranges, `lowest` is all that it speaks.

    Raises InvalidInput for a range that ends before it begins.
    """
    if newest and newest < lowest:
        raise InvalidInput(f"a peer that speaks versions {lowest} to {newest}")
    return Spoken(lowest, newest or lowest)


def agree(protocol: str, own: Spoken, peer: Spoken, *, me: str, who: str) -> int:
    """The newest version that both ends speak.

    Args:
        protocol: its name, for people.
        own: of this end; `me` names it.
        peer: of the other end; `who` names it.

    Raises:
        Incompatible: there is none; the message names both ranges and who is to be upgraded.
    """
    version = min(own.newest, peer.newest)
    if version in own and version in peer:
        return version
    older = who if peer.newest < own.newest else me
    raise Incompatible(
        f"{who} speaks {protocol} {peer}, {me} speaks {own}: upgrade {older}, "
        "one release at a time (docs/upgrades.md)"
    )


def unread(what: str, version: object, own: Spoken) -> str:
    """What is said of something that was written in a version that this release does not read."""
    newer = isinstance(version, int) and version > own.newest
    whose = "a newer release wrote it: go forward to that again" if newer else "an old release wrote it"
    return f"{what} of version {str(version)[:20]}, this release reads {own}: {whose} (docs/upgrades.md)"
