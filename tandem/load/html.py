"""Pure but for the plots: the report as one HTML page that needs nothing else and can be mailed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from tandem.load.describe import share, sweep_lines
from tandem.load.goals import Goals
from tandem.load.plots import distribution_plot, lag_plot, latency_plot, sweep_plot, work_plot
from tandem.load.running import Ran

_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #f5f7fa; margin: 0; }
main { max-width: 1000px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 34px 0 10px; }
.sub { color: #616e7c; margin: 0 0 18px; }
.badge { display: inline-block; border-radius: 5px; padding: 2px 10px; color: #fff; font-weight: 600;
  vertical-align: 3px; margin-left: 8px; font-size: 14px; }
.ok { background: #2f855a; } .bad { background: #c02f2f; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; }
.card { background: #fff; border: 1px solid #e4e7eb; border-radius: 8px; padding: 10px 16px;
  flex: 1 1 150px; }
.card b { display: block; font-size: 22px; } .card span { color: #616e7c; font-size: 13px; }
table { border-collapse: collapse; background: #fff; border: 1px solid #e4e7eb; width: 100%;
  font-size: 14px; }
th, td { padding: 5px 10px; border-bottom: 1px solid #e4e7eb; text-align: right; }
th:first-child, td:first-child, td.words { text-align: left; }
th { font-weight: 600; color: #52606d; background: #fafbfc; }
.met { color: #2f855a; } .broken { color: #c02f2f; font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 10px; margin: 12px 0; }
figure { background: #fff; border: 1px solid #e4e7eb; border-radius: 8px; margin: 0; padding: 8px; }
figure svg { max-width: 100%; height: auto; display: block; }
.wide { flex: 1 1 100%; } .half { flex: 1 1 45%; }
pre { background: #fff; border: 1px solid #e4e7eb; padding: 12px; overflow-x: auto; font-size: 12.5px; }
@media print { body { background: #fff; } figure, table { break-inside: avoid; } }
"""
_QUANTILES = ("n", "p50", "p90", "p95", "p99", "max")


def page(report: dict[str, Any], runs: Sequence[Ran]) -> str:
    """The page of a report, with plots of `runs` (in the report's order)."""
    goals = Goals(**report["goals"])
    verdict, is_good = _verdict_of(report)
    badge = f'<span class="badge {"ok" if is_good else "bad"}">{verdict}</span>'
    title = "Sweep of streams" if report["sweep"] else "Load run"
    body = [
        f"<h1>{title}{badge}</h1>",
        f'<p class="sub">{escape(_about(report))}</p>',
        *(_sweep(report, goals) if report["sweep"] else ()),
        *_chosen(report, runs, goals),
        "<h2>How it was run</h2>",
        _table(("what", "value"), _facts(report)),
        f"<details><summary>Workload and goals</summary><pre>{_as_json(report)}</pre></details>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>tandem load: {escape(title)}</title><style>{_CSS}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def _verdict_of(report: dict[str, Any]) -> tuple[str, bool]:
    """The report in two words, and whether that is good news."""
    if report["sweep"]:
        if report["sweep"]["max_passing"] is None:
            return "no knee", False
        if not report["sweep"]["monotonic"]:
            return "unstable", False
        return ("knee found", True) if report["valid"] else ("knee not reached", False)
    if not report["valid"]:
        return "invalid", False
    return ("goals met", True) if report["passed"] else ("goals not met", False)


def _about(report: dict[str, Any]) -> str:
    return f"{report['began']} against {report['address']}, seed {report['seed']}, commit {report['commit']}"


def _sweep(report: dict[str, Any], goals: Goals) -> Iterator[str]:
    found = report["sweep"]
    yield '<div class="cards">'
    yield _card("knee: most streams that meet every goal", found["max_passing"] or "none")
    yield _card("first number that does not", found["first_failing"] or "not reached")
    yield _card("what breaks there", ", ".join(found["broken"]) or "-")
    yield _card("passes once a goal broke below", "none" if found["monotonic"] else "some: unstable")
    yield "</div>"
    svg = sweep_plot(report["runs"], found["max_passing"], goals, "0")
    yield f'<div class="plots"><figure class="wide">{svg}</figure></div>'
    yield _table(
        (
            "streams",
            "verdict",
            "within goals",
            "lag p95, ms",
            "first token p95, ms",
            "good/s",
            "right",
            "lost",
        ),
        (_point(run) for run in report["runs"]),
    )
    yield f'<p class="sub">{escape(list(sweep_lines(found))[-1])}</p>'


def _point(run: dict[str, Any]) -> tuple[Any, ...]:
    measures = run["measures"]
    questions, frames = measures["questions"], measures["frames"]
    became = (
        "invalid" if not run["valid"] else "passed" if run["passed"] else "broke " + ", ".join(run["broken"])
    )
    return (
        run["streams"],
        became,
        share(questions["attainment"]),
        _number(frames["lag_ms"].get("p95")),
        _number(questions["first_token_ms"]["due"].get("p95")),
        _number(questions["goodput_per_s"]),
        share(measures["accuracy"]["share"]),
        share(frames["dropped_share"]),
    )


def _chosen(report: dict[str, Any], runs: Sequence[Ran], goals: Goals) -> Iterator[str]:
    """Of a sweep the knee and the first failure (or where it ended instead), else the run."""
    found, last = report["sweep"], report["runs"][-1]["streams"]
    wanted = dict.fromkeys((found["max_passing"], found["first_failing"] or last) if found else (last,))
    for streams in wanted:
        of = [index for index, run in enumerate(report["runs"]) if run["streams"] == streams]
        if of:
            if found:
                yield f"<h2>{streams} streams</h2>"
            yield from _run(report["runs"][of[-1]], runs[of[-1]], goals, str(of[-1]))


def _run(run: dict[str, Any], ran: Ran, goals: Goals, salt: str) -> Iterator[str]:
    measures, window_s = run["measures"], run["measures"]["window_s"]
    questions, frames, streams = measures["questions"], measures["frames"], measures["streams"]
    yield '<div class="cards">'
    yield _card("streams sustained", f"{streams['sustained']} of {streams['measured']}")
    yield _card("questions within goals", share(questions["attainment"]))
    yield _card("good answers a second", _number(questions["goodput_per_s"]))
    yield _card("answers right", share(measures["accuracy"]["share"]))
    yield _card("stream time lost", share(frames["dropped_share"]))
    yield "</div>"
    if run["stopped_early"]:
        yield f'<p class="broken">Stopped early: {escape(run["stopped_early"])}</p>'
    if not run["valid"]:
        yield '<p class="broken">Invalid: the generator itself was late.</p>'
    yield "<h2>Goals</h2>"
    yield _table(("goal", "measured", "wanted", ""), (_verdict(verdict) for verdict in run["verdicts"]))
    yield '<div class="plots">'
    yield f'<figure class="wide">{lag_plot(ran.series, window_s, goals, salt)}</figure>'
    yield f'<figure class="wide">{latency_plot(ran.series, window_s, goals, salt)}</figure>'
    yield f'<figure class="half">{distribution_plot(ran.series, window_s, salt)}</figure>'
    yield f'<figure class="half">{work_plot(ran.series, window_s, salt)}</figure>'
    yield "</div><h2>Times, in milliseconds</h2>"
    yield _table(("what", *_QUANTILES), _times(measures))
    if measures["refusals"]:
        yield "<h2>Refused and failed</h2>"
        rows = (
            (r["what"], r["code"], r["count"], _number(r["retry_after_s"].get("p50")), r["message"])
            for r in measures["refusals"]
        )
        yield _table(("what", "code", "times", "retry after, s", "first message"), rows)
    yield "<h2>Counts</h2>"
    yield _table(("what", "value"), _counts(measures))


def _verdict(verdict: dict[str, Any]) -> tuple[Any, ...]:
    mark = Raw('<span class="met">met</span>' if verdict["met"] else '<span class="broken">not met</span>')
    return verdict["goal"], _number(verdict["value"]), f"{verdict['wanted']} {verdict['bound']:g}", mark


def _times(measures: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    questions, frames, streams = measures["questions"], measures["frames"], measures["streams"]
    rows = {
        "first token, from when the question was due": questions["first_token_ms"]["due"],
        "first token, from its sending": questions["first_token_ms"]["sent"],
        "first token, as the server counts": questions["server_first_token_ms"],
        "whole answer, from when it was due": questions["answer_ms"]["due"],
        "whole answer, from its sending": questions["answer_ms"]["sent"],
        "first thought, from when it was due": questions["first_thought_ms"]["due"],
        "between tokens": questions["inter_token_ms"],
        "between tokens, mean of an answer": questions["inter_token_mean_ms"],
        "event to answer": questions["event_to_answer_ms"],
        "answer's knowledge behind, when asked": questions["staleness_asked_ms"],
        "answer's knowledge behind, when told": questions["staleness_told_ms"],
        "second clients: first token": measures["second_clients"]["first_token_ms"]["due"],
        "frame lag behind the live edge (10 a second)": frames["lag_ms"],
        "frame due to retrievable": frames["retrievable_ms"]["due"],
        "frame sent to retrievable": frames["retrievable_ms"]["pushed"],
        "frame arrived to retrievable, as the server counts": frames["server_lag_ms"],
        "note behind what it is about": frames["note_lag_ms"],
        "push waited for room": frames["blocked_ms"],
        "stream opened": streams["open_ms"],
        "stream taken up again": streams["return_ms"],
        "stream ended": streams["end_ms"],
        "the generator itself was late": measures["harness"]["late_ms"],
    }
    for name, of in rows.items():
        if of["n"]:
            yield name, *(of["n"] if q == "n" else _number(of[q]) for q in _QUANTILES)


def _counts(measures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    questions, frames, streams = measures["questions"], measures["frames"], measures["streams"]
    for name in ("attempted", "answered", "good", "without_stream", "left"):
        yield f"questions: {name.replace('_', ' ')}", questions[name]
    for reason, count in questions["failed"].items():
        yield f"questions failed: {reason}", count
    yield "frames sent", frames["sent"]
    yield "watched frames in memory", frames["watched"]
    yield "watched frames lost", frames["lost"]
    for reason, seconds in frames["dropped_s"].items():
        yield f"stream seconds lost: {reason}", _number(seconds)
    yield "stream time watched, and forgotten since", share(frames["forgotten_share"])
    slope = frames["lag_trend"]
    yield "frame lag rises", f"{slope['ms_per_s']:.3g} ms a second" + (" (surely)" if slope["rising"] else "")
    for name in ("planned", "opened", "refused", "failed", "late", "left", "memory_lost", "connections_lost"):
        yield f"streams: {name.replace('_', ' ')}", streams[name]
    yield "answers told twice", streams["answered_twice"]
    for kind, of in measures["accuracy"]["by_kind"].items():
        yield f"right answers: {kind}", f"{of['right']} of {of['marked']}"
    for reason, count in measures["accuracy"]["unmarked"].items():
        yield f"answers not marked: {reason}", count


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in report["machine"].items():
        yield f"machine: {name}", value
    for service in report["server"]["services"]:
        yield (
            f"service {service['name']}",
            f"{service['role']}, model {service['model'] or service['fingerprint'][:16]}",
        )
    yield "tandem", report["version"]


class Raw(str):
    """Text that is HTML already."""

    __slots__ = ()


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, Raw):
        return f"<td>{value}</td>"
    text = str(value)
    return f"<td{' class=words' if len(text) > 40 else ''}>{escape(text)}</td>"


def _card(name: str, value: object) -> str:
    return f'<div class="card"><b>{escape(str(value))}</b><span>{escape(name)}</span></div>'


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _as_json(report: dict[str, Any]) -> str:
    return escape(json.dumps({"workload": report["workload"], "goals": report["goals"]}, indent=1))
