"""Settings that cannot work are said like everything else a service says: in the format of its logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from encoder_svc.__main__ import main as encoder
from reasoner_svc.__main__ import main as reasoner

ENCODER = ["--name", "e-1", "--drain-s", "-1", "--max-streams", "0"]
REASONER = ["--name", "r-1", "--secret-file", "none/such"]


@pytest.mark.parametrize(
    ("main", "argv", "name", "lines"),
    [(encoder, ENCODER, "e-1", 2), (reasoner, REASONER, "r-1", 1)],
)
def test_each_problem_is_a_line_of_the_log(
    main: Callable[[Sequence[str]], int],
    argv: list[str],
    name: str,
    lines: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*argv, "--log-format", "json"]) == 2
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(said) == lines
    assert {(line["level"], line["service"]) for line in said} == {("error", name)}
    assert main(argv) == 2
    text = capsys.readouterr().err.splitlines()
    assert [line["message"] for line in said] == text
    assert all(line.startswith("tandem ") for line in text)
