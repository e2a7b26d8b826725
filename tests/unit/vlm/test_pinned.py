"""Names of a hub: which commit is fetched, and what is no name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tandem.core.errors import NotFound
from tandem.vlm.checkpoint import find_folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, *, revision: str | None, **_: Any) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_name_may_say_its_commit(
    fetched: list[tuple[str, str | None]], caplog: pytest.LogCaptureFixture
) -> None:
    find_folder("owner/name@0123abc", None)
    find_folder("owner/name@0123abc", "another")
    find_folder("owner/name", "0123abc")
    assert fetched == [("owner/name", "0123abc")] * 3
    assert caplog.text == ""
    find_folder("owner/name", None)
    assert fetched[-1] == ("owner/name", None)
    assert "owner/name@COMMIT is one that stays" in caplog.text


@pytest.mark.parametrize("source", ["owner/name@", "owner/name@../../x", "owner/name@a b", "@a", "owner@a"])
def test_what_is_no_name_is_not_asked_for(fetched: list[tuple[str, str | None]], source: str) -> None:
    with pytest.raises(NotFound, match="owner/name@commit"):
        find_folder(source, None)
    assert fetched == []


def test_a_directory_may_be_called_so(fetched: list[tuple[str, str | None]], tmp_path: Path) -> None:
    folder = tmp_path / "name@main"
    folder.mkdir()
    assert find_folder(str(folder), None) == folder
    assert fetched == []
