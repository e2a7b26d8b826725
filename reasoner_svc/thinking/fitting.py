"""Shell. ``python -m reasoner_svc.thinking.fitting RECORDED PROBE`` fits a difficulty probe to states.

RECORDED is a safetensors file: `states` [N, hidden] behind the prompts, `accuracy` [N] and `entropy` [N] of
several answers to each (`difficulty.label_of`), and in the metadata under `model` the model's fingerprint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open

from reasoner_svc.thinking.difficulty import label_of
from reasoner_svc.thinking.probe import fit_probe, save_probe
from tandem.core.errors import InvalidInput

HELD_OUT = 5
"""Every fifth question is not fitted to but measured on."""


def main(argv: list[str] | None = None) -> int:
    """Fit, say how good it is on what was held out, write."""
    parser = argparse.ArgumentParser(
        prog="python -m reasoner_svc.thinking.fitting", description="fit a difficulty probe"
    )
    parser.add_argument("recorded", help="safetensors: states, accuracy, entropy; model in the metadata")
    parser.add_argument("probe", help="file to write, for tandem up --difficulty-probe")
    for name, value, meaning in (
        ("right", 0.8, "share of right answers from which on a question is not hard"),
        ("sure", 0.5, "entropy, in nats, up to which the model does not hesitate"),
        ("wrong", 0.2, "share of right answers below which a question is hard"),
    ):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"{meaning} (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of the probe (%(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW (%(default)s)")
    args = parser.parse_args(argv)
    try:
        right, of = _fit(args)
    except (InvalidInput, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.probe}: {right} of {of} held-out questions as labelled")
    return 0


def _fit(args: argparse.Namespace) -> tuple[int, int]:
    with safe_open(args.recorded, framework="pt") as file:
        if missing := {"states", "accuracy", "entropy"} - set(file.keys()):
            raise InvalidInput(f"{args.recorded} lacks {', '.join(sorted(missing))}")
        model = (file.metadata() or {}).get("model", "")
        states = file.get_tensor("states")
        told = zip(file.get_tensor("accuracy").tolist(), file.get_tensor("entropy").tolist(), strict=True)
        labels = [label_of(a, e, right=args.right, sure=args.sure, wrong=args.wrong) for a, e in told]
    if len(labels) < HELD_OUT or len(labels) != len(states):
        raise InvalidInput(
            f"{args.recorded} has {len(labels)} labels of {len(states)} states; give at least 5"
        )
    fitted = [at for at in range(len(labels)) if at % HELD_OUT]
    probe = fit_probe(
        states[fitted],
        [labels[at] for at in fitted],
        width=args.width,
        epochs=args.epochs,
        rate=args.rate,
    )
    save_probe(probe, Path(args.probe), model)
    held = range(0, len(labels), HELD_OUT)
    return sum(probe.judge(states[at])[0] is labels[at] for at in held), len(held)


if __name__ == "__main__":
    sys.exit(main())
