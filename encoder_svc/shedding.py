"""Pure. Whether a stream's next unit is left out: it would be watched later than its client accepts."""

from __future__ import annotations

BEGIN, END = 0.5, 0.25
"""Parts of the longest lag: what is let in still has to wait behind what waits already, and one long gap is
better than many."""


class Shedding:
    """One stream's.

    Args:
        max_lag_s: longest time past its deadline that a unit may wait, in seconds; 0: none is ever left out.
    """

    def __init__(self, max_lag_s: float) -> None:
        self.max_lag_s = max_lag_s
        self.is_on = False
        """True while units are left out."""

    def sheds(self, late_s: float, *, has_room: bool) -> bool:
        """True when the next unit is to be left out.

        `late_s`: how far the oldest waiting unit is past its deadline. `has_room`: the unit could wait too;
        without room a stream whose units are late would stop its client instead.
        """
        if not self.max_lag_s:
            return False
        if self.is_on:
            self.is_on = late_s > self.max_lag_s * END
        else:
            self.is_on = late_s > self.max_lag_s * BEGIN or (late_s > 0 and not has_room)
        return self.is_on
