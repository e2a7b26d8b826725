"""Pure. Ends output that goes round in circles: the same run of tokens, again and again.

TrimR (arXiv 2505.17155) closes thinking by a rolling hash over token ids. Here it is exact and needs no
hash: for each period p the guard counts how many tokens in a row equal the one p before them; a row of
``(times - 1) * p`` is `times` copies. One comparison per period and token.
"""

from __future__ import annotations

from collections import deque

from reasoner_svc.thinking.base import CONTINUE, Act, Moment, Region, Verdict

LONGEST = 128
TIMES = 4
LEAST_TOKENS = 24
_ACTS = {Region.THINKING: Act.CLOSE, Region.SUMMARY: Act.ROLL, Region.ANSWER: Act.STOP}


class LoopGuard:
    """Closes thinking, or stops an answer, once it repeats itself."""

    def __init__(self, longest: int = LONGEST, times: int = TIMES, least_tokens: int = LEAST_TOKENS) -> None:
        """Runs of up to `longest` tokens, `times` copies and `least_tokens` tokens of them in all."""
        assert longest > 0, longest
        assert times > 1, times
        self._times = times
        self._least = least_tokens
        self._recent: deque[int] = deque(maxlen=longest)
        self._equal = [0] * (longest + 1)
        self._region = Region.THINKING

    def on_token(self, moment: Moment) -> Verdict:
        """See `ThinkingPolicy`."""
        if moment.region is not self._region:  # what an answer says again of its thinking is no loop
            self._region = moment.region
            self._recent.clear()
            self._equal = [0] * len(self._equal)
        found = 0
        for period, before in enumerate(reversed(self._recent), 1):
            self._equal[period] = self._equal[period] + 1 if before == moment.token else 0
            if not found and self._is_loop(period):
                found = period
        self._recent.append(moment.token)
        if not found:
            return CONTINUE
        return Verdict(_ACTS[moment.region], f"a run of {found} tokens came {self._copies(found)} times")

    def _copies(self, period: int) -> int:
        return self._equal[period] // period + 1

    def _is_loop(self, period: int) -> bool:
        equal = self._equal[period]
        return equal >= (self._times - 1) * period and equal + period >= self._least
