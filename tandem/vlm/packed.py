"""Tensor ring: linear layers of CPUs whose weights are kept in the blocked order that oneDNN reads best.

torch sends float32 products to MKL, which on some processors takes two to six times as long for two to eight
rows as for one; decoding several readers together would gain nothing. oneDNN on packed weights takes about
as long for four rows as for one, and less for the hundreds of rows of a prefill. The packed weights take the
place of the plain ones: there is one copy. Results differ from torch's by rounding only.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MIN_ELEMENTS = 1 << 18
"""Smaller weights stay in the caches, and the call costs more than it gains."""
ROWS = 4
"""Fewer rows are filled up to so many: its kernels for one and two are slower than that for four."""
PACKABLE = frozenset({torch.float32, torch.bfloat16})
MACHINES = frozenset({"x86_64", "AMD64"})


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)  # noqa: SLF001
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        rows = x.numel() // self.in_features
        if rows >= ROWS:
            return self._product(x)
        flat = F.pad(x.reshape(rows, self.in_features), (0, 0, 0, ROWS - rows))
        return self._product(flat)[:rows].view(*x.shape[:-1], self.out_features)

    def _product(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")  # noqa: SLF001
        return product


def is_supported() -> bool:
    """Whether this build and machine have what it takes."""
    built = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return built and platform.machine() in MACHINES


@torch.no_grad()
def pack_linears(module: nn.Module) -> int:
    """Replace the large linear layers within `module` that stand on a CPU; returns how many.

    Weights that another module uses too stay as they are.
    """
    if not is_supported():
        return 0
    packed, shared = 0, _shared_weights(module)
    # No list of the layers themselves: each plain weight is to be freed before the next one is packed.
    for parent in [each for each in module.modules() if not isinstance(each, nn.Linear)]:
        for name in [name for name, _ in parent.named_children()]:
            child = parent.get_submodule(name)
            # Exactly: subclasses do something else with their weights.
            if type(child) is nn.Linear and _is_packable(child.weight) and id(child.weight) not in shared:
                setattr(parent, name, PackedLinear(child))
                packed += 1
            del child
    return packed


def _is_packable(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in PACKABLE and weight.numel() >= MIN_ELEMENTS


def _shared_weights(module: nn.Module) -> set[int]:
    seen: set[int] = set()
    shared: set[int] = set()
    for each in module.modules():
        for parameter in each.parameters(recurse=False):
            (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared
