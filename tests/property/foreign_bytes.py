"""Every parser of bytes that come from elsewhere."""

from __future__ import annotations

from tests.property.foreign.calls import CALLS
from tests.property.foreign.files import FILES
from tests.property.foreign.parser import Parser
from tests.property.foreign.pictures import MEDIA
from tests.property.foreign.wire import WIRE

PARSERS: dict[str, Parser] = {**WIRE, **CALLS, **FILES, **MEDIA}
