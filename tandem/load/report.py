"""Shell: writes a run or a sweep down: ``report.json`` and ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tandem import __version__
from tandem.load.goals import Goals
from tandem.load.running import Ran
from tandem.load.workload import Workload

SCHEMA_VERSION = 1


def report_of(
    *,
    load: Workload,
    goals: Goals,
    runs: Sequence[Ran],
    sweep: dict[str, Any] | None,
    address: str,
    server: dict[str, Any],
    machine: dict[str, Any],
    commit: str,
    began: datetime,
) -> dict[str, Any]:
    """The whole report as one object; `docs/load.md` has its fields."""
    told = [run.as_dict() for run in runs]
    passed = all(run["passed"] for run in told) if sweep is None else bool(sweep["max_passing"])
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": "tandem load",
        "version": __version__,
        "commit": commit,
        "began": began.astimezone(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "address": address,
        "server": server,
        "seed": load.seed,
        "workload": load.as_dict(),
        "goals": asdict(goals),
        "mode": "run" if sweep is None else "sweep",
        "passed": passed,
        "valid": all(run["valid"] for run in told),
        "sweep": sweep,
        "runs": told,
    }


def write_report(folder: Path, report: dict[str, Any], runs: Sequence[Ran]) -> tuple[Path, Path]:
    """Write both files; returns their paths."""
    from tandem.load.html import page

    as_json, as_html = folder / "report.json", folder / "report.html"
    as_json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    as_html.write_text(page(report, runs), encoding="utf-8")
    return as_json, as_html
