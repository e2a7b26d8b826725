"""Files that the documents name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACES = (
    "tandem",
    "kv_transfer",
    "encoder_svc",
    "reasoner_svc",
    "orchestrator",
    "bench",
    "proto",
    "tests",
    "scripts",
)
NAMED = re.compile(r"`((?:[\w*-]+/)*[\w*-]+\.(?:py|proto)|(?:[a-z_]+/)+)`")


def exists(name: str) -> bool:
    if any(ROOT.glob(name)):
        return True
    return any(any((ROOT / place).rglob(name.rstrip("/"))) for place in PLACES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_named_in_a_document_exist(document):
    text = document.read_text(encoding="utf-8")
    missing = {name for name in NAMED.findall(text) if not exists(name)}
    assert not missing
