"""How long a provider's queue is by now: what it told last, what it tells at the mean, and how far it keeps its word."""

import math

# After so long, 1 - 1/e of what a short queue was is no longer so; a long one changes as slowly as it is long.
# 0.5 and 1.5 s did alike in simulation.
FRESH_US = 1_000_000
MEAN_OVER_US = 10_000_000
# Who looks best has more to do than it seems, for others see the same: in simulation at load .6 the chosen who were
# thought free had 1.5 to 2 times the mean of what they told; 150 and 200 did better than 100.
CHOSEN_PERCENT = 200
LATE_SHARE = 4  # a new lateness counts one part in four, the first one in two, the second one in three
PUNCTUAL_US = 50_000  # later by less is the way's doing: in simulation 95 of 100 STARTs came within that
MAX_LATE_US = 600_000_000
# Who was late is asked again some day, and may be punctual by then; four times later each time that it was not.
LATE_HALVES_US = 60_000_000
MOST_TIMES_LATE = 4  # of those
SHORT_GROWS = 4  # times; so who refuses again and again though it says it is free is soon known for it


class Waits:
    """What one provider told of its queue, and how that turned out.  `now_us` never runs backwards."""

    __slots__ = (
        "_count",
        "_heard_us",
        "_late_at_us",
        "_late_times",
        "_late_us",
        "_mean_us",
        "_starts",
        "_told_us",
    )

    def __init__(self) -> None:
        self._count = 0
        self._heard_us = 0
        self._told_us = 0
        self._mean_us = 0.0
        self._starts = 0
        self._late_us = 0.0  # at _late_at_us
        self._late_at_us = 0
        self._late_times = 0  # in a row

    @property
    def mean_us(self) -> int:
        """Of the waits that others' work makes, those of the last MEAN_OVER_US above all; 0 before the first."""
        return int(self._mean_us)

    def late_us(self, now_us: int) -> int:
        """By how much it begins later than it says, as far as one's own tasks showed it; fades."""
        if self._late_us < 1:
            return 0
        halves_us = LATE_HALVES_US << 2 * max(0, self._late_times - 1)
        return round(self._late_us * math.exp2((self._late_at_us - now_us) / halves_us))

    def on_told(self, wait_us: int, now_us: int, *, watched: bool = False) -> None:
        """`wait_us`: without the work of one's own in it, which is known.

        `watched`: it would have told sooner of anything else, so what it told last ran down until now; otherwise, what it
        tells when it is asked stands for the time since.
        """
        self._count += 1
        since_us = max(0, now_us - self._heard_us)
        share = 1 - math.exp(-since_us / MEAN_OVER_US)
        usual_us = _ran_down_us(self._told_us, since_us) if watched and since_us else wait_us
        self._mean_us += max(share, 1 / self._count) * (usual_us - self._mean_us)
        self._heard_us, self._told_us = now_us, wait_us

    def on_start(self, promised_us: int, took_us: int, now_us: int) -> None:
        """A task of one's own began `took_us` after a promise of `promised_us`."""
        late_us = took_us - promised_us
        self._learn(0 if late_us <= PUNCTUAL_US else late_us, now_us)

    def on_no_start(self, promised_us: int, took_us: int, now_us: int) -> None:
        """It had not begun by then, and is waited for no longer: it would have been later, nobody can say by how much."""
        self._learn(max(took_us - promised_us, self.late_us(now_us)), now_us)

    def on_refused(self, told_us: int, max_wait_us: int, now_us: int) -> None:
        """It would not take a task that might have waited for `max_wait_us`, though it tells of a wait of `told_us`.

        Where that is shorter, it is short by more than the difference: nobody can say by how much.  Refusals that come
        before what was believed had time to pass tell nothing new: its queue is full of what was offered with them.
        """
        known_us = self.late_us(now_us)
        if told_us < max_wait_us and not (known_us and now_us - self._late_at_us < known_us):
            self._late(max(SHORT_GROWS * known_us, max_wait_us - told_us), now_us)

    def _learn(self, late_us: int, now_us: int) -> None:
        before_us = self.late_us(now_us)
        self._starts = min(LATE_SHARE - 1, self._starts + 1)
        if late_us:
            self._times_late()
        else:
            self._late_times = 0
        self._late(before_us + (late_us - before_us) / (self._starts + 1), now_us)

    def _times_late(self) -> None:
        self._late_times = min(MOST_TIMES_LATE, self._late_times + 1)

    def _late(self, late_us: float, now_us: int) -> None:
        self._late_us, self._late_at_us = min(MAX_LATE_US, late_us), now_us


def _ran_down_us(told_us: int, since_us: int) -> float:
    """The mean over `since_us` of a wait that was `told_us` at first."""
    left_us = max(0, told_us - since_us)
    return (told_us**2 - left_us**2) / (2 * since_us)


def changed_share(silent_us: int) -> float:
    """Of short queues, how many are no longer what they were when nothing was heard of them for so long."""
    return 1 - math.exp(-silent_us / FRESH_US)


def expected_us(told_us: int, age_us: int, silent_us: int, mean_us: int) -> int:
    """The wait now, of a provider that told of `told_us` so long ago and tells of `mean_us` at the mean.

    Its work goes on and new work comes, of which nothing was heard for `silent_us`: what it told fades, and what is usual
    there takes its place.  Beside what it told alone, in simulation at load .6 and .85 (p50/p95 to the oracle), 1.50/1.95
    and 1.49/2.14 became 1.24/1.42 and 1.27/1.50.
    """
    kept = math.exp(-silent_us / max(FRESH_US, told_us, mean_us))
    return int(kept * max(0, told_us - age_us) + (1 - kept) * mean_us * CHOSEN_PERCENT / 100)
