"""Shell. Parts of a reasoner from its settings."""

from __future__ import annotations

from pathlib import Path

from kv_transfer.base import LinkConfig
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.recaller import Recaller
from reasoner_svc.decode.schedule import ScheduleLimits
from reasoner_svc.retrieve.select import Limits
from reasoner_svc.store.disk.measured import MeasuredDisk
from reasoner_svc.store.disk.slots import Fsync, FsyncPolicy
from reasoner_svc.view.loading import LayerLoader
from reasoner_svc.view.memory import RecallSettings
from tandem.core.clock import Clock
from tandem.core.meters import Meters
from tandem.core.transfer import LaneKind
from tandem.vlm.embedder import TextEmbedder, embedder_digits
from tandem.vlm.model import VisionLanguageModel

DEFAULT_RECALLED_BLOCKS = 64
"""What ReKV retrieves (arXiv 2503.00540, section 4)."""


def link_config(config: ReasonerConfig) -> LinkConfig:
    """How links to encoders are served."""
    return LinkConfig(
        lanes=tuple(LaneKind(lane) for lane in config.lanes),
        gloo_host=config.gloo_host,
        device=config.device,
    )


def schedule_limits(config: ReasonerConfig) -> ScheduleLimits:
    """How much the model does at a time."""
    return ScheduleLimits(
        max_running=config.max_running,
        prefill_chunk=config.prefill_chunk,
        tick_tokens=config.tick_tokens,
    )


def make_disk(
    config: ReasonerConfig, model: VisionLanguageModel, clock: Clock, meters: Meters
) -> MeasuredDisk:
    """The disk tier."""
    mode = Fsync.NEVER if config.fsync_s < 0 else Fsync.INTERVAL if config.fsync_s else Fsync.ALWAYS
    return MeasuredDisk(
        Path(config.data_dir),
        fingerprint=model.fingerprint,
        layout=model.layout,
        budget_bytes=config.disk_bytes,
        stream_bytes=config.stream_disk_bytes,
        keep_s=config.keep_hours * 3600,
        fsync=FsyncPolicy(mode, max(config.fsync_s, 0.0)),
        clock=clock,
        meters=meters,
    )


def make_recaller(
    config: ReasonerConfig,
    model: VisionLanguageModel,
    loader: LayerLoader,
    embedder: TextEmbedder | None,
    clock: Clock,
) -> Recaller:
    """What brings older blocks back into view."""
    blocks = config.retrieve_blocks
    if blocks < 0:
        blocks = (
            DEFAULT_RECALLED_BLOCKS if model.prompt.recalled_blocks is None else model.prompt.recalled_blocks
        )
    others = (*config.other_retrieval, *(("external",) if embedder is not None else ()))
    settings = RecallSettings(
        strategy=config.retrieval,
        others=tuple(name for name in dict.fromkeys(others) if name != config.retrieval),
        limits=Limits(blocks=blocks),
        embedding_dim=embedder.dim if embedder is not None else 0,
        embedder=embedder_digits(embedder),
    )
    return Recaller(model, settings, loader, clock, embedder.text if embedder is not None else None)
