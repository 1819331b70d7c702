"""Batches over peers that are there in virtual time only: what is given to whom, and how long all of it takes."""

import heapq
import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.policy.batch import (
    LOOK_EVERY_US,
    MAX_AT_ONE_PEER,
    MAX_REISSUES,
    MAX_UNDER_WAY,
    Batch,
    Ended,
    Give,
    Miss,
    Outlook,
    Withdraw,
    split,
)

STEPS = 8
FOREVER_US = 10_000_000_000
ENDS_WITHIN_US = 1_000_000_000
GONE_AFTER_US = 2_000_000  # silence of a peer, until its attempts are said to be lost


@dataclass
class Peer:
    """A provider: it draws what it is given one after the other."""

    step_us: int
    told_step_us: int | None = None  # what is predicted of it; None: the truth
    way_us: int = 0  # of offer and picture, each
    fixed_us: int = 0
    load_us: int = 0
    others_us: int = 0  # work of others, at first
    dies_us: int = FOREVER_US
    slows_us: int = FOREVER_US  # from then on it takes `slower` times as long
    slower: int = 10
    refuses: Ended | None = None
    free_us: int = 0
    queue: list = field(default_factory=list)  # numbers of attempts, the first is being drawn
    drawn: int = 0
    wasted_us: int = 0

    def outlook(self, name, now_us):
        told_us = self.step_us if self.told_step_us is None else self.told_step_us
        return Outlook(
            name,
            self.way_us,
            max(0, self.others_us - now_us),
            0 if self.drawn else self.load_us,
            self.fixed_us,
            told_us,
            STEPS,
            self.way_us,
        )


class Swarm:
    """Runs one batch to its end and notes what happened; `now_us` is then when."""

    def __init__(self, peers, count):
        self.peers, self.count = peers, count
        self.batch = Batch(count)
        self.now_us = 0
        self.pictures, self.missed = [], {}
        self.gives = {}  # number -> Give, under way
        self.given = []
        self.most_at = dict.fromkeys(peers, 0)
        self._events, self._numbers = [], itertools.count()
        self._at(0, self._look)
        for peer in peers.values():
            self._at(peer.dies_us + GONE_AFTER_US, lambda peer=peer: self._gone(peer))

    def run(self):
        while not self.batch.over:
            self.now_us, _, event = heapq.heappop(self._events)
            assert self.now_us < ENDS_WITHIN_US, "it never ends"
            event()
        for name in {give.peer for give in self.gives.values()}:
            self._drop(name, [number for number, give in self.gives.items() if give.peer == name])
        return self

    def _at(self, at_us, event):
        heapq.heappush(self._events, (at_us, next(self._numbers), event))

    def _look(self):
        self._decide()
        self._at(self.now_us + LOOK_EVERY_US, self._look)

    def _decide(self):
        living = [
            peer.outlook(name, self.now_us)
            for name, peer in self.peers.items()
            if self.now_us < peer.dies_us + GONE_AFTER_US
        ]
        self._do(self.batch.decide(living, self.now_us, nobody="Nobody is there."))

    def _do(self, actions):
        for action in actions:
            match action:
                case Give(number, _, name):
                    self.gives[number] = action
                    self.given.append(action)
                    at_peer = [each for each in self.gives.values() if each.peer == name]
                    self.most_at[name] = max(self.most_at[name], len(at_peer))
                    self._at(
                        self.now_us + self.peers[name].way_us,
                        lambda number=number, name=name: self._heard(number, name),
                    )
                case Withdraw(number):
                    name = self.gives.pop(number).peer
                    self._drop(name, [number])
                case Miss(picture, sentence):
                    assert picture not in self.missed
                    self.missed[picture] = sentence

    def _heard(self, number, name):
        peer = self.peers[name]
        if number not in self.gives:
            return
        if self.now_us >= peer.dies_us:
            self._at(self.now_us + GONE_AFTER_US, lambda: self._ended(number, Ended.BROKE))
        elif peer.refuses is not None:
            self._at(self.now_us + peer.way_us, lambda: self._ended(number, peer.refuses))
        else:
            peer.queue.append(number)
            if len(peer.queue) == 1:
                self._begin(name)

    def _begin(self, name):
        peer = self.peers[name]
        number = peer.queue[0]
        begin_us = max(self.now_us, peer.others_us)
        if not peer.drawn:
            begin_us += peer.load_us
        peer.began_us = begin_us
        self._at(begin_us, lambda: self._step(name, number, 0))

    def _step(self, name, number, step):
        peer = self.peers[name]
        if not peer.queue or peer.queue[0] != number:
            return
        if self.now_us >= peer.dies_us:
            return
        self._at(self.now_us + peer.way_us, lambda: self._progress(number, step))
        if step == STEPS:
            self._at(self.now_us + peer.fixed_us, lambda: self._drawn(name, number))
            return
        us = peer.step_us * (peer.slower if self.now_us >= peer.slows_us else 1)
        self._at(self.now_us + us, lambda: self._step(name, number, step + 1))

    def _progress(self, number, step):
        self.batch.on_progress(number, step, self.now_us)

    def _drawn(self, name, number):
        peer = self.peers[name]
        if not peer.queue or peer.queue[0] != number:
            return
        peer.queue.pop(0)
        peer.drawn += 1
        if peer.queue:
            self._begin(name)
        self._at(self.now_us + peer.way_us, lambda: self._there(number))

    def _there(self, number):
        give = self.gives.pop(number, None)
        actions = self.batch.on_there(number, self.now_us)
        if actions is None:
            return
        self.pictures.append(give.picture)
        self._do(actions)
        if not self.batch.over:
            self._decide()

    def _ended(self, number, how):
        give = self.gives.pop(number, None)
        if give is None:
            return
        peer = self.peers[give.peer]
        if number in peer.queue:
            peer.queue.remove(number)
        self.batch.on_ended(number, how, f"{give.peer} did not.", self.now_us)
        self._decide()

    def _gone(self, peer):
        for number in list(peer.queue):
            self._ended(number, Ended.BROKE)

    def _drop(self, name, numbers):
        """As a provider does: out of its queue, or stopped where it is."""
        peer = self.peers[name]
        for number in numbers:
            if number in peer.queue:
                first = peer.queue[0] == number
                peer.queue.remove(number)
                if first:
                    peer.wasted_us += max(0, self.now_us - peer.began_us)
                    if peer.queue:
                        self._begin(name)

    @property
    def wasted_us(self):
        return sum(peer.wasted_us for peer in self.peers.values())


def ideal_us(paces_us, count):
    """The least time in which peers of these paces, idle and known, can have drawn so many."""
    heap = [(pace_us, pace_us) for pace_us in paces_us]
    heapq.heapify(heap)
    end_us = 0
    for _ in range(count):
        end_us, pace_us = heap[0]
        heapq.heapreplace(heap, (end_us + pace_us, pace_us))
    return end_us


SPEEDS = {"fast": 100_000, "middling": 200_000, "slow": 400_000}  # us a step: 4:2:1


def of_speeds(**more):
    return {name: Peer(step_us, **more) for name, step_us in SPEEDS.items()}


def paces_us(peers):
    return [peer.step_us * STEPS + peer.fixed_us for peer in peers.values()]


@pytest.mark.parametrize("count", [8, 32, 100])
def test_speeds_of_4_2_1_exactly_known_give_the_ideal_makespan(count):
    peers = of_speeds()
    swarm = Swarm(peers, count).run()
    assert swarm.now_us == ideal_us(paces_us(peers), count)
    assert len(swarm.given) == count


@pytest.mark.parametrize("count", [8, 32, 100])
def test_at_a_distance_nine_tenths_of_the_ideal_are_kept(count):
    peers = of_speeds(way_us=75_000, fixed_us=10_000)
    swarm = Swarm(peers, count).run()
    assert swarm.now_us * 9 <= ideal_us(paces_us(peers), count) * 10 + 10 * 2 * 75_000
    if count >= 32:
        assert swarm.now_us * 9 <= ideal_us(paces_us(peers), count) * 10


@pytest.mark.parametrize("told_us", [20_000, 1_000_000])
def test_speeds_nobody_knew_are_learned_in_the_first_pictures(told_us):
    peers = of_speeds(told_step_us=told_us)
    swarm = Swarm(peers, 32).run()
    assert swarm.now_us * 9 <= ideal_us(paces_us(peers), 32) * 10


def test_the_split_is_as_the_speeds():
    swarm = Swarm(of_speeds(), 28).run()
    assert {name: peer.drawn for name, peer in swarm.peers.items()} == {"fast": 16, "middling": 8, "slow": 4}
    told = split([peer.outlook(name, 0) for name, peer in of_speeds().items()], 28)
    assert told.pictures == {"fast": 16, "middling": 8, "slow": 4}
    assert told.there_us == swarm.now_us == 16 * STEPS * 100_000


def test_a_peer_far_away_is_given_more_at_once_and_never_idles():
    peers = {"far": Peer(5_000, way_us=100_000)}
    swarm = Swarm(peers, 40).run()
    assert swarm.now_us == 2 * 100_000 + 40 * STEPS * 5_000
    assert 2 < swarm.most_at["far"] <= MAX_AT_ONE_PEER


def test_one_peer_alone_draws_all_of_it_in_order_two_at_a_time():
    swarm = Swarm({"only": Peer(50_000)}, 10).run()
    assert swarm.pictures == list(range(10))
    assert (swarm.now_us, swarm.most_at["only"]) == (10 * STEPS * 50_000, 2)


def test_fewer_pictures_than_peers_go_to_the_quickest():
    peers = {f"{step_ms}": Peer(step_ms * 1000) for step_ms in (90, 50, 60, 70, 80)}
    swarm = Swarm(peers, 2).run()
    assert sorted(give.peer for give in swarm.given) == ["50", "60"]
    assert sorted(give.peer for give in Swarm({"a": Peer(10_000), "b": Peer(30_000)}, 2).run().given) == [
        "a",
        "a",
    ]


def test_who_has_yet_to_load_or_is_busy_with_others_is_given_less():
    peers = {"warm": Peer(100_000), "cold": Peer(100_000, load_us=3_200_000)}
    assert Swarm(peers, 12).run().now_us == 8 * STEPS * 100_000
    assert (peers["warm"].drawn, peers["cold"].drawn) == (8, 4)
    peers = {"idle": Peer(100_000), "busy": Peer(100_000, others_us=60_000_000)}
    assert Swarm(peers, 12).run().now_us == 12 * STEPS * 100_000


def test_a_peer_that_dies_midway_costs_its_silence_and_what_it_had():
    peers = of_speeds()
    peers["fast"].dies_us = 5_000_000
    swarm = Swarm(peers, 32).run()
    assert sorted(swarm.pictures) == list(range(32))
    left = 32 - peers["fast"].drawn
    assert swarm.now_us <= ideal_us(paces_us(peers)[1:], left) + SPEEDS["slow"] * STEPS


@pytest.mark.parametrize("name", SPEEDS)
def test_a_peer_that_becomes_ten_times_slower_midway_is_left_to_itself(name):
    peers = of_speeds()
    peers[name].slows_us = 5_000_000
    swarm = Swarm(peers, 32).run()
    assert sorted(swarm.pictures) == list(range(32))
    others = [peer.step_us * STEPS for each, peer in peers.items() if each != name]
    before = ideal_us(paces_us(peers), 32)
    best_us = 5_000_000 + ideal_us(
        [*others, 10 * peers[name].step_us * STEPS], round(32 * (1 - 5_000_000 / before))
    )
    assert swarm.now_us * 8 <= best_us * 10
    assert swarm.batch.copies <= len(peers)


def test_what_a_slow_peer_would_have_last_goes_to_one_that_is_done():
    peers = {"quick": Peer(50_000), "stuck": Peer(50_000, slows_us=100_000, slower=1000)}
    swarm = Swarm(peers, 4).run()
    assert sorted(swarm.pictures) == [0, 1, 2, 3]
    assert peers["quick"].drawn == 4
    assert [give.picture for give in swarm.given if give.copy] == [
        1
    ]  # the other had not begun, and was moved
    assert swarm.now_us <= 4 * STEPS * 50_000 + 2 * LOOK_EVERY_US


@pytest.mark.parametrize("how", [Ended.BUSY, Ended.BROKE, Ended.NEVER])
def test_a_peer_that_refuses_is_asked_a_few_times_at_most_and_the_others_draw(how):
    peers = {**of_speeds(), "loath": Peer(10_000, refuses=how)}
    swarm = Swarm(peers, 32).run()
    assert sorted(swarm.pictures) == list(range(32))
    assert (
        sum(give.peer == "loath" for give in swarm.given)
        <= {Ended.BUSY: 20, Ended.BROKE: 20, Ended.NEVER: 2}[how]
    )
    assert swarm.now_us * 9 <= ideal_us(paces_us(of_speeds()), 32) * 10


def test_a_machine_that_stood_still_for_long_is_asked_again_when_it_goes_on():
    peers = {name: Peer(step_us) for name, step_us in SPEEDS.items()}
    batch, now_us, there = Batch(60), 0, {}
    while not batch.over:
        stalls = 5_000_000 <= now_us < 20_000_000
        for action in batch.decide([peer.outlook(name, now_us) for name, peer in peers.items()], now_us):
            match action:
                case Give(number, _, name):
                    free_us = max([now_us, *(us for us, other in there.values() if other == name)])
                    there[number] = free_us + peers[name].step_us * STEPS, name
                case Withdraw(number):
                    del there[number]
        now_us += LOOK_EVERY_US
        for number in [number for number, (us, _) in there.items() if stalls or us <= now_us]:
            if stalls and now_us % 3_000_000 == 0:
                batch.on_ended(number, Ended.BROKE, "Nothing was heard.", now_us)
                del there[number]
            elif not stalls:
                batch.on_progress(number, 0, there[number][0] - STEPS * peers[there[number][1]].step_us)
                for each in batch.on_there(number, now_us) or ():
                    del there[each.number]
                del there[number]
    assert batch.statistics()["missed"] == 0
    assert now_us < 15_000_000 + 8_000_000 + 1.3 * ideal_us(paces_us(peers), 60)


@pytest.mark.parametrize("how", list(Ended))
def test_where_everybody_refuses_every_picture_is_missed_with_what_was_said_last(how):
    swarm = Swarm({"a": Peer(10_000, refuses=how), "b": Peer(10_000, refuses=how)}, 5).run()
    assert set(swarm.missed) == set(range(5))
    assert set(swarm.missed.values()) <= {"a did not.", "b did not."}


def test_where_nobody_is_there_it_is_said_why():
    assert set(Swarm({}, 3).run().missed.values()) == {"Nobody is there."}


def test_where_nobody_is_left_that_is_said_rather_than_what_somebody_said_before():
    batch = Batch(1)
    batch.decide([Peer(10_000).outlook("a", 0)], 0)
    batch.on_ended(1, Ended.BUSY, "a did not.", 0)
    assert batch.decide([], 1, nobody="Nobody is in time.") == [Miss(0, "Nobody is in time.")]


def test_while_pictures_wait_and_everybody_rests_it_is_not_known_when_all_will_be_there():
    batch, peer = Batch(1), Peer(10_000).outlook("a", 0)
    batch.decide([peer], 0)
    assert batch.there_us == 10_000 * STEPS
    batch.on_ended(1, Ended.BUSY, "a did not.", 0)
    assert batch.decide([peer], 1) == []
    assert batch.there_us is None


def test_a_dear_peer_is_asked_where_time_is_worth_its_price():
    def told(extra_us):
        cheap = Peer(100_000).outlook("cheap", 0)
        dear = Outlook("dear", 0, 0, 0, 0, 100_000, STEPS, 0, extra_us=extra_us)
        return split([cheap, dear], 10).pictures

    assert told(0) == {"cheap": 5, "dear": 5}
    assert told(2_000_000) == {"cheap": 6, "dear": 4}
    assert told(60_000_000) == {"cheap": 10}


def test_the_first_to_be_there_is_taken_and_the_other_withdrawn():
    batch = Batch(1)
    slow, quick = (Peer(step_us).outlook(name, 0) for name, step_us in (("slow", 50_000), ("quick", 60_000)))
    (first,) = batch.decide([slow, quick], 0)
    batch.on_progress(1, 0, 0)
    batch.on_progress(1, 1, 1_000_000)
    batch.on_progress(1, 2, 2_000_000)
    (copy,) = batch.decide([slow, quick], 2_000_000)
    assert (first, copy) == (Give(1, 0, "slow"), Give(2, 0, "quick", copy=True))
    assert batch.on_there(2, 2_500_000) == [Withdraw(1)]
    assert batch.on_there(1, 2_500_000) is None
    assert batch.over
    assert batch.drew == {"quick": 1}
    with pytest.raises(LocalProtocolError):
        batch.on_there(3, 0)


peer_of_any_kind = st.builds(
    Peer,
    step_us=st.integers(1_000, 200_000),
    told_step_us=st.none() | st.integers(1_000, 1_000_000),
    way_us=st.integers(0, 300_000),
    fixed_us=st.integers(0, 500_000),
    load_us=st.sampled_from((0, 0, 5_000_000)),
    others_us=st.sampled_from((0, 0, 3_000_000)),
    dies_us=st.just(FOREVER_US) | st.integers(0, 30_000_000),
    slows_us=st.just(FOREVER_US) | st.integers(0, 30_000_000),
    refuses=st.sampled_from((None, None, None, *Ended)),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(peer_of_any_kind, max_size=5), st.integers(1, 24))
def test_whatever_the_peers_do_each_picture_comes_once_or_is_missed(kinds, count):
    swarm = Swarm({f"p{number}": peer for number, peer in enumerate(kinds)}, count).run()
    assert sorted([*swarm.pictures, *swarm.missed]) == list(range(count))
    for peer in kinds:
        if peer.refuses is None and peer.dies_us == FOREVER_US:
            assert not swarm.missed
    copies = [give.picture for give in swarm.given if give.copy]
    assert len(copies) == len(set(copies)) == swarm.batch.copies <= len(kinds)
    assert all(most <= MAX_AT_ONE_PEER for most in swarm.most_at.values())
    assert swarm.batch.statistics()["under_way"] == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(20_000, 500_000), min_size=1, max_size=5), st.integers(20, 60))
def test_peers_that_keep_their_pace_waste_nothing_and_none_is_idle_for_long(steps_us, count):
    swarm = Swarm({f"p{number}": Peer(step_us) for number, step_us in enumerate(steps_us)}, count).run()
    assert swarm.now_us == ideal_us(paces_us(swarm.peers), count)
    assert (swarm.wasted_us, swarm.batch.copies) == (0, 0)
    assert all(most <= 2 for most in swarm.most_at.values())


def test_a_picture_that_broke_again_and_again_goes_to_a_slow_peer_that_never_failed():
    kinds = {f"bad{number}": Peer(1_000, refuses=Ended.BROKE) for number in range(3)}
    swarm = Swarm({**kinds, "slow": Peer(1_000, load_us=5_000_000)}, 1).run()
    assert swarm.pictures == [0]


def test_what_is_under_way_of_one_batch_is_bounded():
    peers = {f"p{number}": Peer(100_000) for number in range(200)}
    batch = Batch(500)
    gives = batch.decide([peer.outlook(name, 0) for name, peer in peers.items()], 0)
    assert len(gives) == MAX_UNDER_WAY
    assert MAX_REISSUES >= 1
