"""Shell: `tandem plan`: what so many streams need, before anything is bought or started."""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from tandem.commands.base import Command, Exit, add_json, positive, whole
from tandem.core.blocks import DTYPE_BYTES, Codec

if TYPE_CHECKING:
    from orchestrator.sizing import Sizing
    from orchestrator.sizing_wish import Line

_EXAMPLE = """\
tandem plan --streams 4 --fps 1
tandem plan --model ./Qwen2.5-VL-7B-Instruct --streams 16 --fps 2 --hours 24 --gpu-memory 80GiB
tandem plan --streams 64 --fps 1 --unit-ms 6 --questions-per-minute 30 --explain"""

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def amount(text: str) -> int:
    """Argument type: bytes, with or without a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected bytes such as 80GiB or 24GB, not {text!r}")
    return int(float(match[1]) * factor)


def frame_size(text: str) -> tuple[int, int]:
    """Argument type: (width, height)."""
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 1280x720, not {text!r}")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """Argument type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, not {text!r}")
    return int(text)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--model",
        default="default",
        help="directory, config.json, hub name, 'default' or 'dummy:...' (%(default)s)",
    )
    add("--revision", default="", help="commit of the hub that a hub name is meant at")
    add("--streams", type=count, required=True, metavar="N", help="streams at once")
    add("--fps", type=positive, required=True, metavar="F", help="frames a second that are watched, of each")
    add("--size", type=frame_size, default=(1280, 720), metavar="WxH", help="of frames (1280x720)")
    add("--hours", type=positive, default=1.0, metavar="H", help="how long blocks are kept (%(default)s)")
    add("--window", type=whole, default=0, metavar="UNITS", help="--window-units; 0: the model's own")
    add("--recent", type=whole, default=0, metavar="TOKENS", help="--view-tokens; 0: the model's own")
    add("--pool-bytes", type=amount, default=64 << 20, metavar="SIZE", help="of a reasoner (64MiB)")
    add("--block-codec", choices=[str(each) for each in Codec], default="raw", help="of blocks (%(default)s)")
    add("--dtype", choices=[*DTYPE_BYTES], default="", help="of the model (default: its own for the device)")
    add(
        "--max-pixels", type=whole, default=0, metavar="N", help="pixel budget of a frame; 0: the model's own"
    )
    add(
        "--gpu-memory",
        type=amount,
        default=0,
        metavar="SIZE",
        help="of each GPU, such as 80GiB; without: on CPUs",
    )
    add("--unit-ms", type=positive, default=0.0, metavar="MS",
        help="measured cost of a unit: tandem_encode_seconds per block, or what refusals say")  # fmt: skip
    add("--questions-per-minute", type=positive, default=0.0, metavar="Q", help="of all streams")
    add("--answer-seconds", type=positive, default=5.0, metavar="S", help="how long one takes (%(default)s)")
    add(
        "--text-tokens",
        type=whole,
        metavar="N",
        help="text tokens of a unit, where no tokenizer can count them",
    )
    add("--explain", action="store_true", help="each number with its formula")
    add_json(parser, "the plan as one JSON object")


def _run(arguments: argparse.Namespace) -> int:
    from orchestrator.sizing import size
    from orchestrator.sizing_advice import helm_values, up_options
    from orchestrator.sizing_wish import Wish
    from tandem.commands.plan_model import read_shape

    device = "cuda" if arguments.gpu_memory else "cpu"
    shape = read_shape(
        arguments.model,
        dtype=arguments.dtype,
        device=device,
        max_pixels=arguments.max_pixels,
        text_tokens=arguments.text_tokens,
        revision=arguments.revision,
    )
    width, height = arguments.size
    plan = size(
        shape,
        Wish(
            streams=arguments.streams,
            fps=arguments.fps,
            height=height,
            width=width,
            hours=arguments.hours,
            window_units=arguments.window,
            view_tokens=arguments.recent,
            pool_bytes=arguments.pool_bytes,
            codec=Codec(arguments.block_codec),
            device_bytes=arguments.gpu_memory,
            unit_ms=arguments.unit_ms,
            questions_per_minute=arguments.questions_per_minute,
            answer_s=arguments.answer_seconds,
        ),
    )
    model = (arguments.model, arguments.revision, shape.layout.dtype)
    options = up_options(plan, *model)
    values = helm_values(plan, *model, arguments.max_pixels)
    if arguments.json:
        print(json.dumps(_as_json(plan, options, values, arguments.max_pixels), ensure_ascii=False))
        return Exit.OK
    print("\n".join(_table(plan, explain=arguments.explain)))
    print("\non one machine, all services together:\n  tandem up " + " ".join(options))
    print("\non Kubernetes, values of the chart:")
    print("\n".join(_yaml(values, "  ")))
    print("\n" + "\n".join(_notes(plan, arguments.max_pixels)))
    return Exit.OK


def _as_json(plan: Sizing, options: list[str], values: dict[str, Any], max_pixels: int) -> dict[str, Any]:
    numbers = {
        line.key: {"value": line.value, "unit": line.unit, "tier": line.tier, "formula": line.formula}
        for line in plan.lines
    }
    services = {"encoders": plan.encoders, "reasoners": plan.reasoners, "gpus": plan.gpus}
    return {"numbers": numbers, **services, "up": options, "helm": values, "notes": _notes(plan, max_pixels)}


def _table(plan: Sizing, *, explain: bool) -> list[str]:
    wide = max(len(line.what) for line in plan.lines)
    found, tier = [], ""
    for line in plan.lines:
        head, tier = (line.tier if line.tier != tier else ""), line.tier
        found.append(f"{head:9}{line.what:{wide}}  {_words(line):>12}")
        if explain:
            found.append(f"{'':9}  = {line.formula}")
    if plan.gpus:
        found.append(f"{'':9}{'GPUs':{wide}}  {plan.gpus:>12}")
    return found


def _words(line: Line) -> str:
    if not line.unit.startswith("B"):
        return f"{line.value:.4g} {line.unit}".strip()
    value, step = line.value, ""
    for step in ("", "k", "M", "G", "T"):
        if value < 1000 or step == "T":
            break
        value /= 1000
    return f"{value:.4g} {step}{line.unit}"


def _yaml(values: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_yaml(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines


def _notes(plan: Sizing, max_pixels: int) -> list[str]:
    notes = []
    if max_pixels:
        notes.append("`tandem up` has no --max-pixels: start encoders and reasoners by themselves with it")
    if not plan.wish.unit_ms:
        notes.append("encoders are counted by memory alone: measure what a unit costs and give --unit-ms")
    if not plan.wish.device_bytes:
        notes.append("on CPUs what is called device is RAM too; --gpu-memory plans for GPUs")
    if min(plan.encoders, plan.reasoners) < 2:
        notes.append("two of each role leave streams a place to go to in upgrades and losses")
    return notes


COMMAND = Command(
    name="plan",
    summary="say what so many streams need: memory of each tier, bandwidth, services, options",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
