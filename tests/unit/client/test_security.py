"""What a client shows: a token that is none is refused before it is sent, and never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.client.security import MAX_TOKEN_BYTES, Security
from tandem.core.errors import InvalidInput


def test_white_space_around_a_token_in_a_file_is_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" it-is-secret\n")
    found = Security(token_file=str(tmp_path / "token")).metadata()
    assert found == (("authorization", "Bearer it-is-secret"),)


@pytest.mark.parametrize("token", ["it-is-secret\n", "it is", "ü", "x" * (MAX_TOKEN_BYTES + 1)])
def test_what_is_no_token_is_refused_here(token: str, tmp_path: Path) -> None:
    """gRPC would say that a header is illegal, and no more."""
    with pytest.raises(InvalidInput, match="must hold one token") as raised:
        Security(token=token).metadata()
    assert token.strip() not in str(raised.value)


def test_nothing_given_is_nothing_shown() -> None:
    assert Security().metadata() == ()
