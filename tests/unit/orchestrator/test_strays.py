"""How long a stream that nobody knows stays at its reasoner."""

from orchestrator.strays import Strays
from tandem.core.ids import StreamId

CAM, OTHER = StreamId("cam"), StreamId("other")


def test_a_stray_goes_after_its_grace_and_an_awaited_one_waits() -> None:
    strays = Strays(grace_s=10.0)
    strays.told(CAM, 0.0)
    strays.told(OTHER, 5.0)
    strays.told(CAM, 9.0)
    assert strays.due(10.0, lambda _: False) == []
    assert strays.due(11.0, lambda stream: stream == OTHER) == [CAM]
    assert strays.due(21.0, lambda _: False) == []
    assert strays.due(22.0, lambda _: False) == [OTHER]
    assert strays.due(99.0, lambda _: False) == []
