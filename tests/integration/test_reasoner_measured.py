"""What a reasoner's metrics say of blocks that leave RAM, come back from disk, and are damaged there."""

from __future__ import annotations

from pathlib import Path

from tandem.core.ids import StreamId
from tandem.vlm.load import load_model
from tests.integration.scraping import Scrape, scrape
from tests.integration.test_reasoner_memory import UNITS, ask, damage, publish, recent, written
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, serve

LOOKUPS = "tandem_kv_lookups_total"


async def look(serving: Serving) -> Scrape:
    return await scrape(serving.reasoner.watched.address)


async def test_tiers_lookups_evictions_and_damage(tmp_path: Path) -> None:
    model = load_model("dummy:tiny-timestamped")
    blocks = encode_clip(model, make_frames(model, UNITS))
    size, layers = blocks[-1].header.payload_bytes, model.layout.layers
    ram_bytes = max(65_536, 6 * size)
    async with serve(
        model,
        view_tokens=recent(blocks, 5),
        retrieve_blocks=UNITS,
        ram_bytes=ram_bytes,
        data_dir=str(tmp_path),
        metrics="127.0.0.1:0",
    ) as serving:
        await serving.open()
        for block in blocks:
            await publish(serving, block)
        await written(serving)
        held = await look(serving)
        in_ram = held("tandem_kv_blocks", tier="ram")
        assert held("tandem_kv_blocks", tier="any") == len(blocks)
        assert in_ram < len(blocks)
        assert held("tandem_kv_evictions_total", tier="ram", reason="demoted") == len(blocks) - in_ram
        assert held("tandem_kv_evictions_total", tier="ram", reason="dropped") == 0
        assert held("tandem_kv_budget_bytes", tier="ram") == ram_bytes
        assert held("tandem_kv_bytes", tier="disk") > len(blocks) * size
        assert held("tandem_disk_waiting_blocks") == 0
        assert held("tandem_reasoner_streams") == 1

        said = await ask(serving)
        first = await look(serving)
        from_disk = first(LOOKUPS, tier="disk", outcome="found")
        assert from_disk > 0
        assert first(LOOKUPS, tier="ram", outcome="found") + from_disk == layers * (UNITS - 5)
        assert first("tandem_disk_read_seconds_count") == layers
        assert first("tandem_generated_tokens_total", outcome="answer") == len(said.tokens)
        await ask(serving)
        second = await look(serving)
        assert second(LOOKUPS, tier="disk", outcome="found") == from_disk
        assert second(LOOKUPS, tier="device", outcome="found") == from_disk

        engine, run = serving.reasoner.engine, serving.reasoner.streams.get(StreamId("cam")).run
        assert engine._recaller is not None
        pool = engine._recaller.loader.pool
        engine._commands.submit(lambda: pool.forget_run(run))
        damage(tmp_path, blocks[2])
        await ask(serving)
        third = await look(serving)
        assert third(LOOKUPS, tier="disk", outcome="damaged") >= 1
        assert third("tandem_kv_checksum_failures_total", tier="disk") >= 1
        assert second("tandem_kv_checksum_failures_total", tier="disk") == 0
