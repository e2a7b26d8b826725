"""Tensor ring: the plain transformers model and its inputs, for parity tests and baselines only.

`load.load_model` alters the model it loads, so comparisons load a second, untouched one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tandem.vlm.checkpoint import DTYPES, find_checkpoint
from tandem.vlm.model import VisionLanguageModel


def stock_model(
    source: str,
    *,
    load_format: str = "auto",
    dtype: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    seed: int = 0,
) -> Any:
    """Transformers' own model with the weights that `load_model` gives for the same arguments."""
    checkpoint = find_checkpoint(source, load_format=load_format, revision=revision, seed=seed)
    return checkpoint.build(
        dtype=DTYPES[dtype] if dtype is not None else checkpoint.default_dtype(device), device=device
    )


def stock_inputs(
    model: VisionLanguageModel, frames: Tensor, times_us: Sequence[int], question: str
) -> dict[str, Tensor]:
    """Arguments of the stock model's ``generate`` for units and a question.

    `frames` uint8 [U, frames_per_unit, H, W, 3]; `times_us` one per unit. `model` gives tokenizer, layout
    and picture processing; its weights are not used.
    """
    prompt, config = model.prompt, model.hf.config
    patches, (grid_h, grid_w) = model.pictures.patches(frames)
    per_unit = grid_h * grid_w // model.pictures.merge**2
    units = len(times_us)
    ids = prompt.sink_tokens()
    for time_us in times_us:
        before, after = prompt.unit_tokens(time_us)
        ids += [*before, *[config.video_token_id] * per_unit, *after]
    ids += prompt.question_tokens(question)
    input_ids = torch.tensor([ids])
    # Native: one video of all units. Timestamped: one video per unit.
    grid = [[units, grid_h, grid_w]] if prompt.name == "native" else [[1, grid_h, grid_w]] * units
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": 2 * (input_ids == config.video_token_id).long(),
        "pixel_values_videos": patches,
        "video_grid_thw": torch.tensor(grid),
        "second_per_grid_ts": torch.full((len(grid),), prompt.seconds_per_unit),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


@torch.no_grad()
def stock_answer(stock: Any, inputs: dict[str, Tensor], max_new_tokens: int) -> tuple[list[int], Tensor]:
    """(greedy tokens, float32 logits [tokens, vocabulary]) of ``generate``, which never ends early here."""
    output = stock.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        min_new_tokens=max_new_tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    prompt_tokens = inputs["input_ids"].shape[1]
    return output.sequences[0, prompt_tokens:].tolist(), torch.stack(output.logits)[:, 0].float()
