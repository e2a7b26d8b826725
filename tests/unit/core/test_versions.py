"""Ranges of versions: what two ends agree on, and what is said where they cannot."""

from __future__ import annotations

import pytest

from tandem.core.errors import Incompatible, InvalidInput
from tandem.core.versions import Spoken, agree, read_spoken, unread


@pytest.mark.parametrize(
    ("own", "peer", "version"),
    [
        (Spoken(1, 2), Spoken(1, 1), 1),
        (Spoken(1, 2), Spoken(1, 2), 2),
        (Spoken(1, 2), Spoken(2, 3), 2),
        (Spoken(2, 2), Spoken(1, 4), 2),
    ],
)
def test_the_newest_that_both_speak_is_chosen(own: Spoken, peer: Spoken, version: int) -> None:
    assert agree("it", own, peer, me="this", who="that") == version
    assert agree("it", peer, own, me="that", who="this") == version


@pytest.mark.parametrize(
    ("own", "peer", "older"),
    [(Spoken(2, 3), Spoken(1, 1), "that"), (Spoken(1, 1), Spoken(2, 3), "this")],
)
def test_without_one_in_common_both_are_named_and_the_older_is_to_be_upgraded(
    own: Spoken, peer: Spoken, older: str
) -> None:
    with pytest.raises(Incompatible) as refused:
        agree("the protocol", own, peer, me="this", who="that")
    assert str(refused.value) == (
        f"that speaks the protocol {peer}, this speaks {own}: upgrade {older}, "
        "one release at a time (docs/upgrades.md)"
    )


def test_a_peer_that_knows_of_no_ranges_speaks_one_version() -> None:
    assert read_spoken(2, 0) == Spoken(2, 2)
    assert read_spoken(1, 3) == Spoken(1, 3)
    with pytest.raises(InvalidInput, match="3 to 2"):
        read_spoken(3, 2)


def test_what_cannot_be_read_is_told_with_both_versions() -> None:
    read = Spoken(1, 3)
    assert "of version 4, this release reads 1 to 3: a newer release wrote it" in unread("x", 4, read)
    assert "of version 0, this release reads 1 to 3: an old release wrote it" in unread("x", 0, read)
    assert len(unread("x", "9" * 500, read)) < 200
