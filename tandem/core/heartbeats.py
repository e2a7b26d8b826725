"""Pure. What a heartbeat's details are called, where they are not of overload (`tandem.core.overload`)."""

MAX_STREAMS = "max_streams"
"""How many streams a service takes at once."""
