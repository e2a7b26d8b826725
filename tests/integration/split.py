"""The whole system beside transformers itself: push pictures through the services, ask both, compare.

`Split` holds running services of one model and a stock, untouched transformers model with the same weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tandem
from tandem.client import Client, MediaKind, MediaOptions, PictureFormat, Stream
from tandem.commands.local import local_services
from tandem.core.secret_file import read_secret
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.unsplit import stock_inputs, stock_model
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc, types_pb2
from tandem.wire.proof import ProvenChannel

SECOND_US = 1_000_000


@dataclass
class Split:
    """Running services, and the model that they are compared with."""

    client: Client
    model: VisionLanguageModel
    stock: Any
    secret_file: Path

    async def tokens(self, stream_id: str, question: str, max_tokens: int) -> list[int]:
        """Greedy tokens of the reasoner's answer over all that is published."""
        status = await self.client.status()
        reasoner = next(s for s in status.services if s.role == "reasoner")
        secret = read_secret(self.secret_file)
        asked = types_pb2.Question(
            question_id=f"direct-{abs(hash((stream_id, question)))}",
            text=question,
            sampling=types_pb2.Sampling(max_tokens=max_tokens),
        )
        request = reasoner_pb2.AnswerRequest(stream_id=stream_id, question=asked)
        async with ProvenChannel(reasoner.address, secret, reasoner.name, reasoner.build.boot_id) as channel:
            async for response in reasoner_pb2_grpc.ReasonerServiceStub(channel).Answer(request):
                if response.HasField("final"):
                    return list(response.final.token_ids)
        raise AssertionError("the answer ended without a final record")

    @torch.no_grad()
    def stock_tokens(
        self, frames: np.ndarray[Any, Any], times_us: Sequence[int], question: str, max_tokens: int
    ) -> list[int]:
        """Greedy tokens of transformers' own `generate()` over the same frames and prompt.

        `frames` uint8 [units, frames per unit, height, width, 3].
        """
        inputs = stock_inputs(self.model, torch.from_numpy(frames), times_us, question)
        ends = sorted(self.model.prompt.eos_ids)
        output = self.stock.generate(
            **inputs, max_new_tokens=max_tokens, do_sample=False, eos_token_id=ends or None, pad_token_id=0
        )
        tokens: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens[:-1] if tokens and tokens[-1] in ends else tokens

    def units(self, pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Pictures [frames, H, W, 3] as whole units [units, frames per unit, H, W, 3]."""
        per_unit = self.model.prompt.frames_per_unit
        whole = len(pictures) // per_unit
        return pictures[: whole * per_unit].reshape(whole, per_unit, *pictures.shape[1:])

    @property
    def pictures(self) -> MediaOptions:
        """Pictures at the rate of the model's frames."""
        return MediaOptions(kind=MediaKind.PICTURES, sample_fps=SECOND_US / self._period_us)

    def times_us(self, frames: int) -> list[int]:
        """Times of so many frames at the model's rate."""
        return [round(i * self._period_us) for i in range(frames)]

    @property
    def _period_us(self) -> float:
        return SECOND_US * self.model.prompt.seconds_per_unit / self.model.prompt.frames_per_unit

    def check_sensitive(
        self,
        frames: np.ndarray[Any, Any],
        times_us: Sequence[int],
        questions: Sequence[str],
        expected: Sequence[Sequence[int]],
        max_tokens: int,
    ) -> None:
        """Assert that some expected answer changes with any unit left out and any two neighbours swapped.

        Where answers do not depend on a unit, equal tokens say nothing about it.
        """
        order = list(range(len(frames)))
        dropped = [[k for k in order if k != unit] for unit in order]
        swapped = [[*order[:i], i + 1, i, *order[i + 2 :]] for i in order[:-1]]
        for kept in dropped + swapped:
            # A unit that is left out leaves its time out too; swapped pictures swap between times.
            times = [times_us[k] for k in sorted(kept)]
            # Questions in the order of what they are about: one about the place that changed comes first.
            changed = next((i for i, k in enumerate(kept) if i != k), len(kept))
            first = changed * len(questions) // len(frames)
            asked = list(zip(questions, expected, strict=True))
            assert any(
                self.stock_tokens(frames[kept], times, question, max_tokens) != answer
                for question, answer in (*asked[first:], *asked[:first])
            ), f"no answer tells units {kept} from {order}: take other questions or pictures"


@contextlib.asynccontextmanager
async def split(run_dir: Path, source: str, *options: str) -> AsyncIterator[Split]:
    """Start the services with model `source` and load the same model unsplit."""
    model = load_model(source)
    stock = stock_model(source)
    async with (
        local_services(run_dir, "--model", source, *options) as address,
        tandem.connect(address) as client,
    ):
        yield Split(client, model, stock.eval(), run_dir / "services" / "secret")


async def push_raw(stream: Stream, pictures: np.ndarray[Any, Any], times_us: Sequence[int]) -> None:
    """Push RGB pictures [frames, H, W, 3] without loss."""
    height, width = pictures.shape[1:3]
    for picture, pts_us in zip(pictures, times_us, strict=True):
        await stream.push_picture(
            picture.tobytes(),
            pts_us=pts_us,
            picture_format=PictureFormat.RGB24,
            width=width,
            height=height,
        )


PICTURES = MediaKind.PICTURES
