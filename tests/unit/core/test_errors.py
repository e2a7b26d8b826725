"""Typed errors survive the trip by name."""

import pytest

from tandem.core.errors import ErrorCode, Internal, TandemError, error_from_code


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_class_that_carries_it(code: ErrorCode) -> None:
    error = error_from_code(code, "what happened", 1.5)
    assert (error.code, error.message, error.retry_after_s) == (code, "what happened", 1.5)
    assert type(error) is not TandemError


def test_an_unknown_code_is_kept_in_the_message() -> None:
    error = error_from_code("from_the_future", "what happened")
    assert isinstance(error, Internal)
    assert "from_the_future" in error.message
