"""How long a provider's queue is by now: what it told last, what it tells at the mean, and how late it really began."""

import math

FRESH_US = 1_000_000  # after so long, 1 - 1/e of what a short queue was is no longer so; a long one changes as slowly as
# it is long.  0.5 and 1.5 s did alike in simulation.
MEAN_OVER_US = 10_000_000
CHOSEN_PERCENT = (
    200  # who looks best has more to do than it seems, for others see the same: in simulation at load .6 the
)
# chosen who were thought free had 1.5 to 2 times the mean of what they told; 150 and 200 did better than 100
LATE_SHARE = 4  # a new lateness counts one part in four
MAX_LATE_US = 600_000_000


class Waits:
    """What one provider told of its queue, and how that turned out."""

    __slots__ = ("_count", "_heard_us", "_mean_us", "late_us")

    def __init__(self) -> None:
        self._count = 0
        self._heard_us = 0
        self._mean_us = 0.0
        self.late_us = 0  # by how much it began later than it had promised, at the mean of one's own tasks

    @property
    def mean_us(self) -> int:
        """Of the waits that others' work makes, those of the last MEAN_OVER_US above all; 0 before the first."""
        return int(self._mean_us)

    def on_told(self, wait_us: int, now_us: int) -> None:
        """`wait_us`: without the work of one's own in it, which is known."""
        self._count += 1
        share = 1 - math.exp(-max(0, now_us - self._heard_us) / MEAN_OVER_US)
        self._mean_us += max(share, 1 / self._count) * (wait_us - self._mean_us)
        self._heard_us = now_us

    def on_start(self, promised_us: int, took_us: int) -> None:
        """A task of one's own began `took_us` after a promise of `promised_us`."""
        late_us = min(MAX_LATE_US, max(0, took_us - promised_us))
        self.late_us += (late_us - self.late_us) // LATE_SHARE


def expected_us(told_us: int, age_us: int, mean_us: int) -> int:
    """The wait now, of a provider that told of `told_us` so long ago and tells of `mean_us` at the mean.

    Its work goes on and new work comes: what it told fades, and what is usual there takes its place.  Beside what it told
    alone, in simulation at load .6 and .85 (p50/p95 to the oracle), 1.50/1.95 and 1.49/2.14 became 1.24/1.42 and 1.27/1.50.
    """
    kept = math.exp(-age_us / max(FRESH_US, told_us, mean_us))
    return int(kept * max(0, told_us - age_us) + (1 - kept) * mean_us * CHOSEN_PERCENT / 100)
