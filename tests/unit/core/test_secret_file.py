"""A secret is read the same way everywhere, and a bad file is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tandem.core.errors import InvalidInput
from tandem.core.secret_file import read_secret

SECRET = b"0123456789abcdef"


def test_white_space_around_it_is_not_part_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" " + SECRET + b"\n")
    file.chmod(0o640)
    assert read_secret(file) == SECRET
    assert not caplog.records


def test_one_that_everybody_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    file.chmod(0o644)
    assert read_secret(file) == SECRET
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(file) in record.getMessage()
    assert SECRET.decode() not in record.getMessage()


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    with pytest.raises(InvalidInput, match=rf"cannot read the secret file {file}: No such file"):
        read_secret(file)
    with pytest.raises(InvalidInput, match="cannot read"):
        read_secret(tmp_path)
    file.write_bytes(SECRET[:-1] + b"\n")
    with pytest.raises(InvalidInput, match=r"15 bytes, at least 16"):
        read_secret(file)
