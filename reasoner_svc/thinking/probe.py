# ruff: noqa: N803, N815 (shape suffixes)
"""Tensor. The probe of DiffAdapt: two layers over the hidden state behind a prompt; its file; and its fit.

Files are safetensors: `hidden.weight` [P, E], `hidden.bias` [P], `out.weight` [3, P], `out.bias` [3], and in
the metadata under `model` the fingerprint of the model whose states it was fitted to. E hidden size, P width
of the probe, N questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reasoner_svc.thinking.difficulty import Difficulty
from tandem.core.errors import InvalidInput

MAX_WIDTH = 4096
_ORDER = tuple(Difficulty)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """Finished weights, float32 on the CPU: one vector a question is judged."""

    hidden_PE: Tensor
    hidden_bias_P: Tensor
    out_3P: Tensor
    out_bias_3: Tensor

    @torch.no_grad()
    def judge(self, state_E: Tensor) -> tuple[Difficulty, float]:
        """How hard a question looks and the probability of that; `state_E` is after the final norm."""
        logits = self._logits(state_E.detach().float().cpu())
        shares = logits.softmax(-1)
        best = int(shares.argmax())
        return _ORDER[best], float(shares[best])

    def _logits(self, states: Tensor) -> Tensor:
        inner = nn.functional.linear(states, self.hidden_PE, self.hidden_bias_P).relu()
        return nn.functional.linear(inner, self.out_3P, self.out_bias_3)


def load_probe(path: str, hidden_size: int, fingerprint: str) -> Probe:
    """Read a probe for a model. Raises InvalidInput that names the file and what is wrong with it."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(f"the difficulty probe {path} cannot be read: {error}") from error
    if metadata.get("model", "") != fingerprint:
        raise InvalidInput(
            f"the difficulty probe {path} was fitted to model {metadata.get('model', '')[:32]!r}; "
            f"this is {fingerprint!r}"
        )
    width = tensors["hidden.bias"].numel() if "hidden.bias" in tensors else 0
    shapes = {
        "hidden.weight": (width, hidden_size),
        "hidden.bias": (width,),
        "out.weight": (len(_ORDER), width),
        "out.bias": (len(_ORDER),),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes or not 1 <= width <= MAX_WIDTH:
        raise InvalidInput(f"the difficulty probe {path} holds {found}; {shapes} were expected")
    if not all(bool(tensor.float().isfinite().all()) for tensor in tensors.values()):
        raise InvalidInput(f"the difficulty probe {path} holds numbers that are not finite")
    return Probe(
        hidden_PE=tensors["hidden.weight"].float(),
        hidden_bias_P=tensors["hidden.bias"].float(),
        out_3P=tensors["out.weight"].float(),
        out_bias_3=tensors["out.bias"].float(),
    )


def save_probe(probe: Probe, path: Path, fingerprint: str) -> None:
    """Write a probe that was fitted to states of the model with this fingerprint."""
    tensors = {
        "hidden.weight": probe.hidden_PE,
        "hidden.bias": probe.hidden_bias_P,
        "out.weight": probe.out_3P,
        "out.bias": probe.out_bias_3,
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"model": fingerprint})


def fit_probe(
    states_NE: Tensor,
    labels: Sequence[Difficulty],
    *,
    width: int = 64,
    epochs: int = 100,
    rate: float = 1e-3,
    seed: int = 0,
) -> Probe:
    """Fit a probe to recorded states and what should be said of them (AdamW; the defaults are the paper's).

    States are after the final norm, of the last token of each prompt. Raises InvalidInput for too few.
    """
    if states_NE.ndim != 2 or len(labels) != states_NE.shape[0] or not labels:
        raise InvalidInput(f"{len(labels)} labels for states of shape {tuple(states_NE.shape)}")
    if not 1 <= width <= MAX_WIDTH:
        raise InvalidInput(f"a probe of width {width}; 1 to {MAX_WIDTH} are possible")
    generator = torch.Generator().manual_seed(seed)
    states = states_NE.detach().float().cpu()
    targets = torch.tensor([_ORDER.index(label) for label in labels])
    size = states.shape[1]
    weights = [
        torch.randn(width, size, generator=generator) * size**-0.5,
        torch.zeros(width),
        torch.randn(len(_ORDER), width, generator=generator) * width**-0.5,
        torch.zeros(len(_ORDER)),
    ]
    with torch.inference_mode(False), torch.enable_grad():
        parameters = [weight.clone().requires_grad_() for weight in weights]
        optimiser = torch.optim.AdamW(parameters, lr=rate)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(labels), generator=generator), 32):
                inner = nn.functional.linear(states[batch], *parameters[:2]).relu()
                loss = nn.functional.cross_entropy(
                    nn.functional.linear(inner, *parameters[2:]), targets[batch]
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    hidden, hidden_bias, out, out_bias = (parameter.detach() for parameter in parameters)
    return Probe(hidden_PE=hidden, hidden_bias_P=hidden_bias, out_3P=out, out_bias_3=out_bias)
