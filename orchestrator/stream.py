"""Pure. The life of a stream as a transition table.

Knows neither media nor services: it says which state follows, and what the shell must do.

::

    OPENING ──placed──▶ LIVE ──all published──▶ ENDED ──expired, forgotten──▶ CLOSED
       │                │  ▲                      │
       │    service lost▼  │placed                │service lost (its blocks are gone)
       │             RECOVERING ◀─────────────────┘
       └── failed, expired, forgotten: from every state ──▶ CLOSED
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where a stream is in its life; the names are what `tandem streams` shows."""

    OPENING = "opening"
    """No encoder has taken it yet."""
    LIVE = "live"
    """An encoder and a reasoner work on it."""
    RECOVERING = "recovering"
    """It lost a service and is being placed again."""
    ENDED = "ended"
    """No more media and all of it published; kept for questions."""
    CLOSED = "closed"
    """Gone."""


class Event(StrEnum):
    """What can happen to a stream."""

    PLACED = "placed"
    """An encoder said that it is ready for media."""
    SERVICE_LOST = "service_lost"
    """Its encoder or its reasoner is gone or leaves, or the call between them broke."""
    ALL_PUBLISHED = "all_published"
    """The client sent End and the encoder has published everything."""
    CLIENT_LOST = "client_lost"
    """The feeding client vanished, or left after Goodbye."""
    CLIENT_BACK = "client_back"
    """A client feeds it (again)."""
    EXPIRED = "expired"
    """It was without a client for too long."""
    FORGOTTEN = "forgotten"
    """The client asked to forget it."""
    FAILED = "failed"
    """It cannot be watched: an error that a new placement does not cure."""


class Action(StrEnum):
    """What the shell does after a transition, in order."""

    WELCOME = "welcome"
    """Let the waiting client in."""
    PLACE = "place"
    """Find services, re-open under the next epoch, replay."""
    FINISH = "finish"
    """Answer what is open, then say goodbye."""
    START_EXPIRY = "start_expiry"
    """Count the seconds without a client."""
    STOP_EXPIRY = "stop_expiry"
    """A client is there: stop counting."""
    RELEASE = "release"
    """Free everything that is held for it, here and at the services."""


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one event."""

    state: State
    actions: tuple[Action, ...] = ()


_CLOSE = Step(State.CLOSED, (Action.RELEASE,))
_ENDINGS = dict.fromkeys((Event.EXPIRED, Event.FORGOTTEN, Event.FAILED), _CLOSE)


def _client_events(state: State) -> dict[Event, Step]:
    return {
        Event.CLIENT_LOST: Step(state, (Action.START_EXPIRY,)),
        Event.CLIENT_BACK: Step(state, (Action.STOP_EXPIRY,)),
    }


TABLE: dict[State, dict[Event, Step]] = {
    State.OPENING: {
        Event.PLACED: Step(State.LIVE, (Action.WELCOME,)),
        Event.SERVICE_LOST: Step(State.OPENING, (Action.PLACE,)),
        **_client_events(State.OPENING),
        **_ENDINGS,
    },
    State.LIVE: {
        Event.SERVICE_LOST: Step(State.RECOVERING, (Action.PLACE,)),
        Event.ALL_PUBLISHED: Step(State.ENDED, (Action.FINISH,)),
        **_client_events(State.LIVE),
        **_ENDINGS,
    },
    State.RECOVERING: {
        Event.PLACED: Step(State.LIVE),
        Event.SERVICE_LOST: Step(State.RECOVERING, (Action.PLACE,)),
        **_client_events(State.RECOVERING),
        **_ENDINGS,
    },
    State.ENDED: {
        Event.SERVICE_LOST: Step(State.RECOVERING, (Action.PLACE,)),
        **_client_events(State.ENDED),
        **_ENDINGS,
    },
    State.CLOSED: {},
}
"""What is not listed changes nothing and asks for nothing: a late event is no error."""


def advance(state: State, event: Event) -> Step:
    """The state that follows and what to do. Total: every event is allowed in every state."""
    return TABLE[state].get(event, Step(state))
