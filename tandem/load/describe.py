"""Pure: a run in a few lines of text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run_lines(run: dict[str, Any]) -> Iterator[str]:
    """What a run (`Ran.as_dict`) comes to."""
    measures = run["measures"]
    questions, frames, streams = measures["questions"], measures["frames"], measures["streams"]
    yield (
        f"streams: {streams['sustained']} of {streams['measured']} sustained, {streams['refused']} refused, "
        f"{streams['failed']} failed; frames: {frames['sent']} sent, {frames['lost']} of the watched lost"
    )
    yield f"frame lag behind the live edge: {spread(frames['lag_ms'])}"
    yield f"frame to retrievable: {spread(frames['retrievable_ms']['due'])}"
    yield (
        f"questions: {questions['answered']} of {questions['attempted']} answered, {questions['good']} "
        f"within all goals ({share(questions['attainment'])}), {questions['goodput_per_s']:.2f} good a second"
    )
    yield f"first token, from when it was due: {spread(questions['first_token_ms']['due'])}"
    yield f"first token, from when it was sent: {spread(questions['first_token_ms']['sent'])}"
    yield f"whole answer, from when it was due: {spread(questions['answer_ms']['due'])}"
    if questions["event_to_answer_ms"]["n"]:
        yield f"event to answer: {spread(questions['event_to_answer_ms'])}"
    accuracy = measures["accuracy"]
    if accuracy["marked"]:
        yield f"answers: {accuracy['right']} of {accuracy['marked']} right ({share(accuracy['share'])})"
    for refusal in measures["refusals"]:
        yield f"refused: {refusal['count']} × {refusal['what']}, {refusal['code']}: {refusal['message']}"
    yield f"the generator itself was late: {spread(measures['harness']['late_ms'])}"
    for verdict in run["verdicts"]:
        yield verdict_words(verdict)
    if run["stopped_early"]:
        yield f"✗ stopped early: {run['stopped_early']}"
    if not run["valid"]:
        yield f"INVALID: beyond {measures['harness']['bound_ms']:g} ms the run says nothing about the server"


def verdict_words(verdict: dict[str, Any]) -> str:
    """One goal."""
    value = verdict["value"]
    shown = "nothing was measured" if value is None else f"{value:.4g}"
    mark = "✓" if verdict["met"] else "✗"
    return f"{mark} {verdict['goal']}: {shown} (wanted: {verdict['wanted']} {verdict['bound']:g})"


def sweep_lines(found: dict[str, Any]) -> Iterator[str]:
    """What a sweep found."""
    for point in found["points"]:
        became = "passed" if point["passed"] else "broke " + ", ".join(point["broken"])
        yield f"{point['streams']:6} streams: {became}"
    if found["max_passing"] is None:
        yield "no number of streams met every goal"
    else:
        yield f"the knee: {found['max_passing']} streams met every goal" + (
            f", {found['first_failing']} did not ({', '.join(found['broken'])})"
            if found["first_failing"]
            else ""
        )
    if not found["monotonic"]:
        yield "unstable: a number that passed once failed at another time, or below"
    yield f"stopped: {found['why_stopped']}"


def spread(of: dict[str, Any], unit: str = "ms") -> str:
    """A distribution in a few words."""
    if not of["n"]:
        return "nothing was measured"
    p50, p95, p99 = (f"{of[name]:.4g}" for name in ("p50", "p95", "p99"))
    return f"median {p50}, p95 {p95}, p99 {p99}, worst {of['max']:.4g} {unit} ({of['n']})"


def share(value: float | None) -> str:
    """A share in percent."""
    return "-" if value is None else f"{100 * value:.1f} %"
