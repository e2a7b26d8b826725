"""Pure. What is in the tables of faults: scenarios to run, and for each listed fault what shows its outcome.

``scenarios.toml`` says what is done to a running system and what must hold at the end; ``apart.toml``, in the
same format, what is done to services that outlive their orchestrator (`tests/faults` plays it).
``faults.toml`` and ``inputs.toml`` list every fault (F) and bad input (B) with the outcome that is expected
and what shows it: scenarios, tests of the repository, bad inputs of `bench/faults/inputs.py`, or why one
machine cannot.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tandem.core.errors import InvalidInput

HERE = Path(__file__).resolve().parent
FAULTS, INPUTS = 36, 34
RIGHT, TOLD = "right", "told"
"""What answers must be: the known ones, or at least say what they could not know."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to the system, when so many frames have been pushed."""

    do: str
    at: int
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row of ``scenarios.toml``."""

    name: str
    what: str
    system: str
    """Which kind of system it runs on; see `bench/faults/system.py`."""
    own: bool
    """It leaves the system unfit for others."""
    frames: int
    steps: tuple[Step, ...]
    answers: str
    errors: tuple[str, ...]
    """Codes that a question which was open may end with."""
    gaps: tuple[str, ...]
    """Reasons of gaps that may be told; with none, nothing may be missing."""
    resume_s: float
    """Longest time from the first step until new frames are published again."""
    refused: str
    """Error that the call may end with, by its code; empty: the stream must live."""
    quick: bool
    """Part of the short form."""
    apart: bool = False
    """Done as well to services that outlive the orchestrator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One row of the lists of faults and bad inputs."""

    name: str
    what: str
    expected: str
    scenarios: tuple[str, ...]
    inputs: tuple[str, ...]
    tests: tuple[str, ...]
    elsewhere: str

    @property
    def is_shown(self) -> bool:
        """True when something that runs here shows its outcome."""
        return bool(self.scenarios or self.inputs or self.tests)


_SCENARIO_KEYS = {
    "what",
    "system",
    "own",
    "frames",
    "steps",
    "answers",
    "errors",
    "gaps",
    "resume_s",
    "refused",
    "quick",
    "apart",
}
_APART_KEYS = {"what", "steps"}
_LISTED_KEYS = {"what", "expected", "scenarios", "inputs", "tests", "elsewhere"}


def scenarios() -> dict[str, Scenario]:
    """All of them by name, in the order of the file. Raises `InvalidInput` for a row that is not one."""
    file = "scenarios.toml"
    return {name: _scenario(file, name, row) for name, row in _rows(file, _SCENARIO_KEYS).items()}


def apart() -> dict[str, Scenario]:
    """What is done to services that outlive the orchestrator, by name. Raises `InvalidInput`."""
    shared = {name: each for name, each in scenarios().items() if each.apart}
    file = "apart.toml"
    own = {name: _scenario(file, name, row) for name, row in _rows(file, _APART_KEYS).items()}
    if twice := set(own) & set(scenarios()):
        raise InvalidInput(f"apart.toml: {', '.join(sorted(twice))} is in scenarios.toml too")
    return shared | own


def listed() -> dict[str, Listed]:
    """Every fault and bad input by its short name. Raises `InvalidInput` for a row that is not one."""
    rows = _rows("faults.toml", _LISTED_KEYS) | _rows("inputs.toml", _LISTED_KEYS)
    return {name: _listed(name, row) for name, row in rows.items()}


def chosen(names: str, quick: bool) -> list[Scenario]:
    """Scenarios to run: those of the short form, or all, or those named with commas between.

    A name may also be that of a listed fault. Raises `InvalidInput` that names what there is.
    """
    every = scenarios()
    if not names:
        return [each for each in every.values() if each.quick or not quick]
    known = listed()
    found: dict[str, Scenario] = {}
    for name in names.split(","):
        if name in every:
            found[name] = every[name]
        elif name in known and known[name].scenarios:
            found |= {each: every[each] for each in known[name].scenarios}
        else:
            raise InvalidInput(f"no scenario {name!r}; there are {', '.join(every)}")
    return list(found.values())


def _rows(file: str, keys: set[str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = tomllib.loads((HERE / file).read_text())
    for name, row in rows.items():
        if unknown := set(row) - keys:
            raise InvalidInput(f"{file}, {name}: unknown {', '.join(sorted(unknown))}")
    return rows


def _scenario(file: str, name: str, row: Mapping[str, Any]) -> Scenario:
    frames = int(row.get("frames", 40))
    steps = tuple(
        Step(step["do"], int(step.get("at", 20)), {k: v for k, v in step.items() if k not in {"do", "at"}})
        for step in row.get("steps", ())
    )
    if any(not 0 <= step.at <= frames for step in steps):
        raise InvalidInput(f"{file}, {name}: a step after the last frame")
    if (file == "apart.toml" or row.get("apart")) and any("at" in step for step in row.get("steps", ())):
        raise InvalidInput(f"{file}, {name}: services apart are struck as frames come, and no step has `at`")
    if row.get("answers", RIGHT) not in {RIGHT, TOLD}:
        raise InvalidInput(f"{file}, {name}: answers are {row['answers']!r}, not {RIGHT} or {TOLD}")
    return Scenario(
        name=name,
        what=row["what"],
        system=row.get("system", "disk"),
        own=row.get("own", False),
        frames=frames,
        steps=steps,
        answers=row.get("answers", RIGHT),
        errors=tuple(row.get("errors", ())),
        gaps=tuple(row.get("gaps", ())),
        resume_s=float(row.get("resume_s", 10.0)),
        refused=row.get("refused", ""),
        quick=row.get("quick", False),
        apart=row.get("apart", False),
    )


def _listed(name: str, row: Mapping[str, Any]) -> Listed:
    return Listed(
        name=name,
        what=row["what"],
        expected=row["expected"],
        scenarios=tuple(row.get("scenarios", ())),
        inputs=tuple(row.get("inputs", ())),
        tests=tuple(row.get("tests", ())),
        elsewhere=row.get("elsewhere", ""),
    )
