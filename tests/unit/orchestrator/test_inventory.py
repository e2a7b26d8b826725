"""What reasoners hold of streams that nobody here knows."""

from __future__ import annotations

from orchestrator.inventory import Holding, Inventory
from tandem.core.ids import StreamId

CAM = StreamId("cam")


def holding(reasoner: str, epoch: int, watermark_us: int = 0, incarnation: str = "life") -> Holding:
    return Holding(
        stream=CAM,
        incarnation=incarnation,
        reasoner=reasoner,
        epoch=epoch,
        watermark_us=watermark_us,
        next_block_number=1,
    )


def test_the_latest_placement_counts_and_then_the_longest() -> None:
    inventory = Inventory()
    inventory.told("b0", holding("reasoner-0", 2, 9))
    inventory.told("b1", holding("reasoner-1", 3, 1))
    found = inventory.find(CAM, "life")
    assert found is not None
    assert found.reasoner == "reasoner-1"
    inventory.told("b0", holding("reasoner-0", 3, 9))
    found = inventory.find(CAM, "life")
    assert found is not None
    assert found.reasoner == "reasoner-0"


def test_another_life_of_the_id_and_what_is_gone_are_not_found() -> None:
    inventory = Inventory()
    inventory.told("b0", holding("reasoner-0", 2))
    inventory.told("b1", holding("reasoner-1", 9, incarnation="another"))
    inventory.told("b2", holding("reasoner-2", 9, incarnation=""))
    found = inventory.find(CAM, "life")
    assert found is not None
    assert found.reasoner == "reasoner-0"
    assert inventory.find(CAM, "") is None
    inventory.gone("b0")
    assert inventory.find(CAM, "life") is None
    inventory.forget(CAM)
    assert len(inventory) == 0


def test_who_lets_go_of_a_stream_is_forgotten_and_others_are_not() -> None:
    inventory = Inventory()
    inventory.told("b0", holding("reasoner-0", 2))
    inventory.told("b1", holding("reasoner-1", 1))
    inventory.dropped("b0", CAM)
    inventory.dropped("b9", CAM)
    found = inventory.find(CAM, "life")
    assert found is not None
    assert (found.reasoner, len(inventory)) == ("reasoner-1", 1)
