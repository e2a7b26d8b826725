"""What needs a GPU, in a time budget: tests marked `gpu`, kernels against the reference, 7B-shaped benches.

Run by `scripts/gpu-check`. Every part is skipped, and said to be, when the budget is spent; what was measured
so far is written all the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from tandem.vlm.backends.cuda import CudaFlash
from tandem.vlm.backends.plain import plain
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.segment import Segment
from tandem.vlm.unsplit import stock_model
from tandem.vlm.view import Part, View

NO_GPU = 2
BUDGET_S = 500.0
"""Below nine minutes with the start of Python and a last bench that overruns."""
TESTS_SHARE = 0.4
RESERVE_S = 60.0
"""A bench is not started with less than this left."""
ROOT = Path(__file__).resolve().parent.parent
CONTEXTS = (1_024, 16_384, 65_536)
FRAME = (448, 448)
WINDOW_UNITS = 16
HEAD_DIM = 128
KERNEL_SHAPES = {
    "rectangle": ((4, 7, HEAD_DIM), (4, 16_384, HEAD_DIM), (4, 16_384, HEAD_DIM)),
    "squares": ((2, 4, 1_021, HEAD_DIM),) * 3,
}
"""Queries, keys, values. 1021 fills no tile of a kernel."""
HF_CACHE = "transformers' DynamicCache, which concatenates all keys and values at every step, and SDPA"
BARE_FORWARD = "the bare modules, without window and capture"


class Report:
    """Results in the format of `tandem bench --json`."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.results: list[dict[str, Any]] = []
        self.notes: list[str] = []

    @property
    def left_s(self) -> float:
        """Seconds of the budget that remain."""
        return BUDGET_S - (time.monotonic() - self.started)

    def add(self, metric: str, value: float, unit: str, **more: Any) -> None:
        """Record and print one result."""
        self.results.append({"metric": metric, "value": value, "unit": unit, **more})
        print(f"  {metric}: {value:.4g} {unit}", *(f"{k}={v}" for k, v in more.items()), flush=True)

    def note(self, text: str) -> None:
        """Record and print what was not done."""
        self.notes.append(text)
        print(f"  note: {text}", flush=True)

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
        device = torch.cuda.get_device_properties(0)
        machine = {
            "gpu": device.name,
            "gpu_memory_bytes": device.total_memory,
            "python": platform.python_version(),
        }
        machine |= {"torch": torch.__version__, "transformers": transformers.__version__}
        fields: dict[str, Any] = {"name": "gpu-check", "commit": commit.stdout.strip(), "machine": machine}
        fields |= {"settings": {"budget_s": BUDGET_S}, "results": self.results, "notes": self.notes}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields, indent=2) + "\n")
        print(f"wrote {path}")


def run_tests(report: Report) -> bool:
    """Tests marked `gpu`; True when none failed."""
    junit = ROOT / "bench" / "results" / "gpu-tests.xml"
    junit.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", "tests", "-m", "gpu", "-q", f"--junitxml={junit}"]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=BUDGET_S * TESTS_SHARE).returncode
    except subprocess.TimeoutExpired:
        report.note("the tests were cut off by the time budget")
        return False
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    junit.unlink()
    if suite is not None:
        for kind in ("tests", "failures", "errors", "skipped"):
            report.add(f"gpu_{kind}", float(suite.get(kind, 0)), "tests")
    return done == 0


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest error, relative where values are above 1: rows of few keys have large ones."""
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1)).max())


def check_kernels(report: Report, device: str = "cuda") -> bool:
    """Largest errors of the kernels against plain float32 torch, at 7B shapes; True when small.

    The rectangle is a short question over a long stream, the squares are batches of units among themselves.
    """
    good, kernels, scale = True, CudaFlash(), HEAD_DIM**-0.5
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)):
        for form, shapes in KERNEL_SHAPES.items():
            query, key, value = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
            kernel = kernels.squares if form == "squares" else kernels.rectangle
            ours = kernel(query, key, value, scale)
            theirs = plain(query, key, value, scale, causal=form == "squares")
            errors = [relative(a.float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
            error = float(torch.tensor(errors).max())  # NaN if any is, unlike Python's max
            report.add(f"kernel_error_{form}_{str(dtype).removeprefix('torch.')}", error, "of max(1, value)")
            good &= error < limit  # False for NaN
    return good


Times = tuple[list[float], list[float]]


def wait() -> None:
    """Until the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> Times:
    """Seconds of each, taken in turns so that both meet the same machine."""
    times: Times = ([], [])
    for at in range(rounds + 2):
        for run, kept in zip((ours, theirs), times, strict=True):
            wait()
            before = time.perf_counter()
            run()
            wait()
            if at >= 2:  # the first two warm up
                kept.append(time.perf_counter() - before)
    return times


def compare(
    report: Report,
    metric: str,
    baseline: str,
    per_run: float,
    unit: str,
    times: Times,
    baseline_is: str,
) -> None:
    """Record a rate (`per_run` things per run) and its ratio over the baseline's, and what that is."""
    ours, theirs = (statistics.median(kept) for kept in times)
    spread = (max(times[0]) - min(times[0])) / ours
    more = {"baseline": baseline, "ratio": theirs / ours, "n": len(times[0]), "spread": spread}
    more["baseline_is"] = baseline_is
    report.add(metric, per_run / ours, unit, **more)


def random_segment(model: VisionLanguageModel, tokens: int) -> Segment:
    """A segment of random content."""
    segment, layout = model.new_segment(tokens + 64), model.layout
    step = 4096
    for first in range(0, tokens, step):
        number = min(step, tokens - first)
        shape = (layout.layers, layout.kv_heads, number, layout.head_dim)
        keys, values = (torch.randn(shape, device=model.device, dtype=model.dtype) for _ in range(2))
        segment.append_raw(keys, values, (first + torch.arange(number)).expand(3, -1))
    return segment


@torch.no_grad()
def bench_decode(report: Report, model: VisionLanguageModel, stock: Any, context: int) -> None:
    """One token at a context: sink, stream and tail as three parts, against transformers' cache and SDPA.

    That cache copies itself to grow by one token, so the ratio is over what transformers does by default, not
    over its attention alone; it grows with the context for that reason too.
    """
    stream, sink, tail = (random_segment(model, n) for n in (context, 32, 64))
    view = View(
        parts=(Part(segment=sink), Part(segment=stream, base=(32, 32, 32))),
        tail=Part(segment=tail, base=(context + 32,) * 3),
    )
    positions, embeds = torch.full((3, 1), context + 96), model.embed([1])

    def ours() -> None:
        model.logits(model.forward(embeds, positions, view).hidden)
        tail.truncate(64)

    config = model.hf.config.text_config
    cache = transformers.DynamicCache(config=config)
    for layer in range(config.num_hidden_layers):
        shape = (1, config.num_key_value_heads, context + 96, model.layout.head_dim)
        keys = torch.randn(shape, device=model.device, dtype=model.dtype)
        cache.update(keys, keys.clone(), layer)
    own_positions = positions[:, None].to(model.device)

    def theirs() -> None:
        output = stock.model.language_model(
            inputs_embeds=embeds[None], position_ids=own_positions, past_key_values=cache
        )
        stock.lm_head(output.last_hidden_state)

    times = interleaved(ours, theirs, 12)
    compare(report, f"tokens_per_second_{context}", "hf_cache", 1.0, "tokens/s", times, HF_CACHE)


@torch.no_grad()
def bench_encode(report: Report, model: VisionLanguageModel, stock: Any, units: int) -> None:
    """Units through tower and sliding-window prefill, against the bare modules without window and capture."""
    frames = torch.randint(0, 256, (units, model.prompt.frames_per_unit, *FRAME, 3), dtype=torch.uint8)
    geometry = model.prompt.geometry(model.grid(*FRAME))
    size, local = geometry.tokens, model.prompt.local_positions(geometry)
    placement = model.prompt.placement(geometry)
    bases = placement.place_units(WINDOW_UNITS + units)[WINDOW_UNITS:]
    positions = torch.cat([local + torch.tensor(base)[:, None] for base in bases], 1)
    sink, recent = random_segment(model, 32), random_segment(model, WINDOW_UNITS * size)
    oldest = torch.arange(1, units + 1)
    view = View(
        parts=(Part(segment=sink),),
        tail=Part(segment=recent, first_visible=(oldest * size).repeat_interleave(size)),
    )
    own_positions = positions[:, None].to(model.device)

    def ours() -> None:
        embeds = model.see(frames).embeds.flatten(0, 1)
        model.forward(embeds, positions, view, capture=True)
        recent.truncate(WINDOW_UNITS * size)

    def theirs() -> None:
        embeds = model.see(frames).embeds.flatten(0, 1)
        stock.model.language_model(inputs_embeds=embeds[None], position_ids=own_positions, use_cache=False)

    times = interleaved(ours, theirs, 6)
    compare(report, f"units_per_second_{units}", "bare_forward", float(units), "units/s", times, BARE_FORWARD)


def run_benches(report: Report, source: str, device: str, contexts: tuple[int, ...]) -> None:
    """The benches that fit the budget."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    model = load_model(source, load_format="dummy", device=device, dtype=dtype)
    stock = stock_model(source, load_format="dummy", device=device, dtype=dtype)
    planned = [(f"decode at {n}", partial(bench_decode, report, model, stock, n)) for n in contexts]
    planned += [(f"encode {n} units", partial(bench_encode, report, model, stock, n)) for n in (1, 8)]
    for name, bench in planned:
        if report.left_s < RESERVE_S:
            report.note(f"{name} was not run: the time budget is spent")
            continue
        try:
            bench()
        except torch.OutOfMemoryError:
            report.note(f"{name} was not run: not enough GPU memory")
        torch.cuda.empty_cache()


def main() -> int:
    """Run everything; see `scripts/gpu-check` for the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="dummy:qwen2.5-vl-7b", help="for the benches (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "gpu-check.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"gpu-check: torch {torch.__version__} sees no CUDA device here; nothing was run", file=sys.stderr
        )
        return NO_GPU
    report = Report()
    print(f"gpu-check on {torch.cuda.get_device_name(0)}: tests")
    passed = run_tests(report)
    try:
        print("kernels against plain torch")
        passed &= check_kernels(report)
        print(f"benches on {arguments.model}")
        run_benches(report, arguments.model, "cuda", CONTEXTS)
    finally:
        report.write(arguments.json)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
