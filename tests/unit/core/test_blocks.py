"""Byte arithmetic of blocks, against sizes worked out by hand."""

from tandem.core.blocks import BlockGeometry, KVLayout
from tandem.core.ids import is_valid_id


def test_the_size_of_a_7b_frame() -> None:
    layout = KVLayout(layers=28, kv_heads=4, head_dim=128, dtype="bfloat16")
    assert layout.block_bytes(1) == 57_344
    assert layout.block_bytes(196) == 11_239_424


def test_the_geometry_counts_text_and_grid() -> None:
    geometry = BlockGeometry(text_before=4, grid_t=1, grid_h=2, grid_w=3, text_after=1)
    assert (geometry.visual_tokens, geometry.tokens) == (6, 11)


def test_ids_are_safe_to_use_in_names() -> None:
    assert is_valid_id("front-door.cam_1")
    assert not any(map(is_valid_id, ["", ".hidden", "a/b", "a b", "x" * 65, "ümlaut", "a\n"]))
