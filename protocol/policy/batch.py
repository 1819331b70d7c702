"""A batch of pictures over several peers: which one is asked of whom, and when.  Events and `now` in, actions out.

The pictures of a batch cost alike, so what is decided is how many each peer draws: each goes where it would be finished
soonest behind what is there already, which for equal tasks makes the whole end soonest.  That split is made anew at every
decision, from new predictions and from how the peers were seen to draw.  A peer is given no more than keeps it from idling;
the rest waits for whoever turns out to be quick.  When no picture waits any more, those that others would have sooner go
there as well: one that has not begun is moved, one that is being drawn gets a copy, and the first to be there is taken.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from ..errors import LocalProtocolError
from .selection import Choice, Plan

# Decisions also come without an event: who is silent is late, and a rest ends.
LOOK_EVERY_US = 250_000
MAX_AT_ONE_PEER = 8  # what a provider lets wait of one requester (queue.py)
MAX_UNDER_WAY = 64  # pictures of one batch: each holds a stream and, towards its end, its bytes
# A copy or a move must be so much sooner, counted from now: predictions are wrong by half of it.
GAIN_PERCENT = 20
MAX_REISSUES = 2  # of one picture
MAX_BROKEN = 8  # attempts at one picture that ended badly: as many as a job makes
CAREFUL_BROKEN = 4  # after so many it goes to peers without trouble, however long they take, if there are any
# Of a peer that refused or broke down, doubled for each trouble in a row.
REST_US, MAX_REST_US = 500_000, 8_000_000
# In a row: four times gone, or eight times busy.  Where all peers had as much, nobody is waited for.
MAX_TROUBLE = 8


class Ended(IntEnum):
    """How an attempt ended that gave no picture; the number is the trouble it counts as."""

    BUSY = 1  # another time it might
    BROKE = 2  # lost, failed, or what came does not hold
    NEVER = MAX_TROUBLE  # it will not draw any of these, and is asked no more


@dataclass(frozen=True)
class Outlook:
    """What is expected of one peer, were it asked for one more picture now."""

    peer: str
    lead_us: int  # until it has the offer: dial and offer
    wait_us: int  # in its queue, one's own work there included
    load_us: int  # of the model and of adapters
    fixed_us: int  # the steps apart
    step_us: int
    steps: int
    back_us: int  # the way of the picture
    extra_us: int = 0  # what it costs more than the cheapest, in time that is worth as much

    @property
    def work_us(self) -> int:
        return self.fixed_us + self.steps * self.step_us


def outlooks(plan: Plan) -> tuple[Outlook, ...]:
    """Of the peers of a plan."""
    least = min(choice.price_millionths for choice in plan.ranked)
    value = max(1, plan.wishes.value_of_time_millionths)
    return tuple(
        _outlook(choice, (choice.price_millionths - least) * 1_000_000 // value) for choice in plan.ranked
    )


def _outlook(choice: Choice, extra_us: int) -> Outlook:
    predicted = choice.prediction
    return Outlook(
        peer=choice.peer,
        lead_us=predicted.dial_us + predicted.offer_us,
        wait_us=predicted.wait_us,
        load_us=predicted.load_us + (predicted.apply_us or 0),
        fixed_us=predicted.fixed_us,
        step_us=predicted.step_us,
        steps=predicted.steps,
        back_us=predicted.transfer_us,
        extra_us=extra_us,
    )


@dataclass(frozen=True)
class Split:
    """How many each peer would draw, and when the last would be there, from now."""

    pictures: dict[str, int]
    there_us: int


def split(of: Sequence[Outlook], count: int) -> Split:
    """What a batch would begin with; `of` is not empty."""
    batch = Batch(count)
    batch.decide(of, 0)
    drawn = Counter(attempt.peer for attempt in batch.under_way())
    assert batch.there_us is not None  # nobody rests yet
    return Split(dict(drawn + batch.planned), batch.there_us)


@dataclass(frozen=True)
class Give:
    """Ask `peer`, and nobody else, for this picture, however long it lets it wait."""

    number: int  # of this attempt, from 1
    picture: int
    peer: str
    copy: bool = False  # another is drawing it


@dataclass(frozen=True)
class Withdraw:
    """This attempt is wanted no more."""

    number: int


@dataclass(frozen=True)
class Miss:
    """This picture is given up."""

    picture: int
    sentence: str


Action = Give | Withdraw | Miss


@dataclass
class Attempt:
    """One picture at one peer, while it is under way."""

    number: int
    picture: int
    peer: str
    given_us: int
    begin_us: int  # expected, were it alone there
    started_us: int | None = None
    first: tuple[int, int] | None = None  # steps done, and when: where its pace is measured from
    last: tuple[int, int] | None = None


@dataclass
class _Peer:
    outlook: Outlook
    able: bool = True  # in the last plan
    # In the order given, which is that in which they run.
    attempts: list[Attempt] = field(default_factory=list)
    step_us: int | None = None  # as it was seen to draw
    apart_us: int | None = None  # between pictures that came from it, while it had another
    landed_us: int = 0
    loath: bool = False
    trouble: int = 0
    troubled_us: int = -1
    rests_until_us: int = 0

    @property
    def work_us(self) -> int:
        step_us = self.outlook.step_us if self.step_us is None else self.step_us
        return self.outlook.fixed_us + self.outlook.steps * step_us

    @property
    def gap_us(self) -> int:
        """From one picture to the next."""
        return max(1, self.work_us, self.apart_us or 0)

    @property
    def room(self) -> int:
        """One that is drawn, one that waits, and those on the way to and fro."""
        on_the_way = (self.outlook.lead_us + self.outlook.back_us) // self.gap_us
        return min(MAX_AT_ONE_PEER, 2 + on_the_way) - len(self.attempts)

    def usable(self, now_us: int) -> bool:
        return self.able and not self.loath and now_us >= self.rests_until_us

    @property
    def hopeful(self) -> bool:
        return self.able and not self.loath and self.trouble < MAX_TROUBLE

    def ends_us(self, now_us: int) -> list[int]:
        """When its renderer is done with each attempt.  What is late by so much is expected to be late by as much again."""
        lead_us, back_us, work_us = self.outlook.lead_us, self.outlook.back_us, self.work_us
        ends: list[int] = []
        for attempt in self.attempts:
            if attempt.started_us is None:
                begin_us = attempt.begin_us
                if ends:
                    begin_us = max(begin_us, ends[-1] + self.gap_us - work_us)
                begin_us += 2 * max(0, now_us - begin_us - lead_us)
            else:
                begin_us = attempt.started_us
            end_us = begin_us + work_us
            if attempt.last is not None and self.step_us is not None:
                step, at_us = attempt.last
                end_us = max(end_us, at_us + (self.outlook.steps - step) * self.step_us)
            ends.append(end_us + 2 * max(0, now_us - end_us - back_us))
        return ends

    def one_more_us(self, now_us: int) -> int:
        """When one more would be there."""
        outlook = self.outlook
        if self.attempts:
            end_us = max(self.ends_us(now_us)[-1] + self.gap_us, now_us + outlook.lead_us + self.work_us)
        else:
            end_us = self._begin_us(now_us) + self.work_us
        return end_us + outlook.back_us

    def give(self, number: int, picture: int, now_us: int) -> None:
        begin_us = now_us + self.outlook.lead_us if self.attempts else self._begin_us(now_us)
        self.attempts.append(Attempt(number, picture, self.outlook.peer, now_us, begin_us))

    def end(self, attempt: Attempt, now_us: int) -> None:
        """The next one begins when this one ends."""
        was_first = self.attempts[0] is attempt
        self.attempts.remove(attempt)
        if was_first and self.attempts:
            self.attempts[0].begin_us = max(self.attempts[0].begin_us, now_us)

    def _begin_us(self, now_us: int) -> int:
        return now_us + self.outlook.lead_us + self.outlook.wait_us + self.outlook.load_us


class Batch:
    """`count` pictures, numbered from 0.  After each event, and every LOOK_EVERY_US, `decide` says what is to be done.

    Raises LocalProtocolError for an attempt that was never made.  Events of attempts that have ended change nothing.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.copies = 0
        self.planned: Counter[str] = Counter()  # how many of those that wait each peer would draw
        # When all are expected to be there, by the last decision; None: some wait, and everybody rests.
        self.there_us: int | None = 0
        self.drew: Counter[str] = Counter()
        self._waiting = list(range(count))  # a heap
        self._done: set[int] = set()
        self._missed: set[int] = set()
        self._peers: dict[str, _Peer] = {}
        self._attempts: dict[int, Attempt] = {}  # under way
        self._numbers = 0
        self._broken: Counter[int] = Counter()  # by picture
        self._reissued: Counter[int] = Counter()
        self._copied: set[int] = set()
        self._last_sentence = ""

    @property
    def over(self) -> bool:
        return len(self._done) + len(self._missed) == self.count

    def under_way(self) -> tuple[Attempt, ...]:
        return tuple(self._attempts.values())

    def decide(self, now: Iterable[Outlook], now_us: int, *, nobody: str = "") -> list[Action]:
        """`now`: who could be asked for one more at `now_us`, from a plan made for that; `nobody`: why it is empty."""
        for peer in self._peers.values():
            peer.able = False
        now = tuple(now)
        for outlook in now:
            known = self._peers.setdefault(outlook.peer, _Peer(outlook))
            known.outlook, known.able = outlook, True
        hopeless = [picture for picture in self._waiting if self._broken[picture] >= MAX_BROKEN]
        self._waiting = sorted(set(self._waiting).difference(hopeless))
        actions: list[Action] = [self._miss(picture) for picture in hopeless]
        actions += self._give_out(now_us)
        if not self._waiting:
            actions += self._reissue(now_us)
        elif not self._attempts and not any(peer.hopeful for peer in self._peers.values()):
            if not now:
                self._last_sentence = nobody or self._last_sentence
            actions += [self._miss(picture) for picture in self._waiting]
            self._waiting.clear()
        return actions

    def on_progress(self, number: int, step: int, now_us: int) -> None:
        """It is being drawn, and so many steps are done."""
        attempt = self._of(number)
        if attempt is None:
            return
        if attempt.started_us is None:
            attempt.started_us = now_us
        if step < 1:
            return
        attempt.last = step, now_us
        if attempt.first is None:
            attempt.first = attempt.last
        first_step, first_us = attempt.first
        if step > first_step:
            self._peers[attempt.peer].step_us = max(1, (now_us - first_us) // (step - first_step))

    def on_there(self, number: int, now_us: int) -> list[Withdraw] | None:
        """Its picture is there, and checked.  None: it was there before, and this one is of no use."""
        attempt = self._end(number, now_us)
        if attempt is None or attempt.picture in self._done:
            return None
        peer = self._peers[attempt.peer]
        peer.trouble = 0
        if attempt.given_us < peer.landed_us:  # it waited there when the one before came
            apart_us = now_us - peer.landed_us
            peer.apart_us = apart_us if peer.apart_us is None else (peer.apart_us + apart_us) // 2
        peer.landed_us = now_us
        self._done.add(attempt.picture)
        self.drew[attempt.peer] += 1
        return [self._withdraw(each, now_us) for each in self._copies_of(attempt.picture)]

    def on_ended(self, number: int, how: Ended, sentence: str, now_us: int) -> None:
        """It ended without a picture."""
        attempt = self._end(number, now_us)
        if attempt is None:
            return
        self._last_sentence = sentence
        peer = self._peers[attempt.peer]
        peer.loath = peer.loath or how is Ended.NEVER
        if attempt.given_us > peer.troubled_us:  # what was there before ends of the same trouble
            peer.rests_until_us = now_us + min(MAX_REST_US, REST_US << peer.trouble)
            peer.trouble += how
            peer.troubled_us = now_us
        self._broken[attempt.picture] += how is Ended.BROKE
        if attempt.picture not in self._done and not self._copies_of(attempt.picture):
            heapq.heappush(self._waiting, attempt.picture)

    def statistics(self) -> dict[str, int]:
        return {
            "waiting": len(self._waiting),
            "under_way": len(self._attempts),
            "done": len(self._done),
            "missed": len(self._missed),
            "attempts": self._numbers,
            "copies": self.copies,
        }

    # what to do

    def _give_out(self, now_us: int) -> list[Action]:
        """Each that waits goes, in thought, where it is there soonest; and really, as far as that peer has room."""
        gives: list[Action] = []
        self.planned.clear()
        there = [self._there_us(peer, now_us) for peer in self._peers.values() if peer.attempts]
        there_us = max(there, default=now_us)
        usable = [peer for peer in self._peers.values() if peer.usable(now_us)]
        if any(self._broken[picture] >= CAREFUL_BROKEN for picture in self._waiting):
            usable = [peer for peer in usable if not peer.trouble] or usable
        soonest = [
            (peer.one_more_us(now_us) + peer.outlook.extra_us, index) for index, peer in enumerate(usable)
        ]
        heapq.heapify(soonest)
        rooms = {index: peer.room for index, peer in enumerate(usable)}
        for _ in range(len(self._waiting) if usable else 0):
            us, index = soonest[0]
            peer = usable[index]
            heapq.heapreplace(soonest, (us + peer.gap_us, index))
            there_us = max(there_us, us - peer.outlook.extra_us)
            if rooms[index] > 0 and len(self._attempts) < MAX_UNDER_WAY:
                rooms[index] -= 1
                gives.append(self._give(heapq.heappop(self._waiting), peer, now_us))
            else:
                self.planned[peer.outlook.peer] += 1
        self.there_us = there_us if usable or not self._waiting else None
        return gives

    def _reissue(self, now_us: int) -> list[Action]:
        """The last are looked at first."""
        actions: list[Action] = []
        last = sorted(
            (
                (end_us + peer.outlook.back_us, attempt.number)
                for peer in self._peers.values()
                for attempt, end_us in zip(peer.attempts, peer.ends_us(now_us), strict=True)
            ),
            reverse=True,
        )
        for there_us, number in last:
            attempt = self._attempts[number]
            picture, begun = attempt.picture, attempt.started_us is not None
            if self._reissued[picture] >= MAX_REISSUES or len(self._copies_of(picture)) > 1:
                continue
            if begun and (picture in self._copied or self.copies >= len(self._peers)):
                continue
            others = [
                peer
                for name, peer in self._peers.items()
                if name != attempt.peer
                and peer.usable(now_us)
                and peer.room > 0
                and not (begun and peer.attempts)
            ]
            if not others:
                continue
            sooner_us, other = min(
                ((peer.one_more_us(now_us) + peer.outlook.extra_us, peer) for peer in others),
                key=lambda each: each[0],
            )
            if (sooner_us - now_us) * (100 + GAIN_PERCENT) > (there_us - now_us) * 100:
                continue
            self._reissued[picture] += 1
            if begun:
                self.copies += 1
                self._copied.add(picture)
            else:
                actions.append(self._withdraw(attempt, now_us))
            actions.append(self._give(picture, other, now_us, copy=begun))
        return actions

    def _give(self, picture: int, peer: _Peer, now_us: int, *, copy: bool = False) -> Give:
        self._numbers += 1
        peer.give(self._numbers, picture, now_us)
        self._attempts[self._numbers] = peer.attempts[-1]
        return Give(self._numbers, picture, peer.outlook.peer, copy)

    def _withdraw(self, attempt: Attempt, now_us: int) -> Withdraw:
        self._end(attempt.number, now_us)
        return Withdraw(attempt.number)

    def _miss(self, picture: int) -> Miss:
        self._missed.add(picture)
        return Miss(picture, self._last_sentence)

    # what is

    def _there_us(self, peer: _Peer, now_us: int) -> int:
        return peer.ends_us(now_us)[-1] + peer.outlook.back_us

    def _copies_of(self, picture: int) -> list[Attempt]:
        return [attempt for attempt in self._attempts.values() if attempt.picture == picture]

    def _of(self, number: int) -> Attempt | None:
        if not 1 <= number <= self._numbers:
            raise LocalProtocolError(f"attempt {number} was not made")
        return self._attempts.get(number)

    def _end(self, number: int, now_us: int) -> Attempt | None:
        attempt = self._of(number)
        if attempt is not None:
            del self._attempts[number]
            self._peers[attempt.peer].end(attempt, now_us)
        return attempt
