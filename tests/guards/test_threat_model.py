"""docs/security.md names a test for each trust boundary: these tests are there."""

from __future__ import annotations

import re

from tests.guards.product import ROOT

DOCUMENT = ROOT / "docs" / "security.md"


def test_every_boundary_names_tests_that_exist() -> None:
    lines = DOCUMENT.read_text().partition("## Trust boundaries")[2].partition("\n## ")[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")][1:]
    assert len(rows) > 10
    for boundary, *_, guards in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", guards)
        assert named, boundary
        for file, test in named:
            text = (ROOT / file).read_text()
            assert not test or re.search(rf"def {test}\(", text), (boundary, file, test)
