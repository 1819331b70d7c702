"""Newcomers are on trial: crowds of them, from one source or from many, are tried by a handful."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.policy.directory import Directory
from protocol.policy.selection import plan
from protocol.policy.trials import HALVES_US, MAX_PENALTY_US, MAX_SOURCES, MOST, MOST_CREDIT, TRIAL_US, Trials
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import advert, live, offered, statement

S = 1_000_000


def test_nobody_is_avoided_where_nobody_failed():
    trials = Trials()
    trials.on_succeeded("a", 0, connected=True)
    assert not trials.any_failed()
    assert trials.penalty_us("a", 0, connected=False) == trials.penalty_us("b", 0, connected=True) == 0


def test_each_failure_doubles_what_the_next_one_from_there_must_be_better_by():
    trials, penalties = Trials(), []
    for _ in range(8):
        trials.on_failed("a", 0, connected=True)
        penalties.append(trials.penalty_us("a", 0, connected=True))
    assert trials.any_failed()
    assert penalties == [TRIAL_US * times for times in (1, 3, 7, 15, 31, 63)] + [MAX_PENALTY_US] * 2
    assert trials.penalty_us("a", HALVES_US, connected=True) == TRIAL_US * 15


def test_failures_of_one_source_are_not_those_of_others_unless_there_are_more_of_them_than_of_pictures():
    trials = Trials()
    for number in range(3):
        trials.on_succeeded(f"good {number}", 0, connected=True)
    for _ in range(3):
        trials.on_failed("bad", 0, connected=True)
    assert trials.penalty_us("bad", 0, connected=True) == 7 * TRIAL_US
    assert trials.penalty_us("other", 0, connected=True) == 0
    trials.on_failed("as bad", 0, connected=True)
    assert trials.penalty_us("other", 0, connected=True) == TRIAL_US
    assert trials.penalty_us("good 1", 0, connected=True) == TRIAL_US


def test_who_cannot_be_reached_says_nothing_of_who_is_connected():
    trials = Trials()
    trials.on_failed("a", 0, connected=False)
    assert trials.penalty_us("a", 0, connected=True) == 0
    assert trials.penalty_us("a", 0, connected=False) == TRIAL_US
    trials.on_succeeded("a", 0, connected=False)
    assert trials.penalty_us("a", 0, connected=False) == 0
    trials.on_failed("a", 0, connected=True)
    assert trials.penalty_us("a", 0, connected=True) == trials.penalty_us("a", 0, connected=False) == TRIAL_US


def test_who_was_dialled_for_no_picture_says_nothing_of_those_elsewhere():
    trials = Trials()
    for _ in range(9):
        trials.on_failed("a", 0, connected=False, for_picture=False)
    assert trials.penalty_us("a", 0, connected=False) == MAX_PENALTY_US
    assert trials.penalty_us("b", 0, connected=False) == 0
    for _ in range(9):
        trials.on_succeeded("a", 0, connected=False, for_picture=False)
    trials.on_failed("b", 0, connected=False)
    assert trials.penalty_us("c", 0, connected=False) == TRIAL_US


@given(st.lists(st.tuples(st.integers(0, 2000), st.booleans(), st.booleans(), st.integers(0, HALVES_US))))
def test_what_is_kept_is_bounded_and_so_is_each_penalty(events):
    trials, now_us = Trials(), 0
    for number, failed, connected, later_us in events:
        now_us += later_us
        count = trials.on_failed if failed else trials.on_succeeded
        count(str(number), now_us, connected=connected)
        assert 0 <= trials.penalty_us(str(number), now_us, connected=connected) <= MAX_PENALTY_US
    assert all(-MOST_CREDIT <= beyond <= MOST for beyond, _ in trials._beyond.values())


def test_of_many_sources_those_heard_of_last_are_remembered():
    trials = Trials()
    for number in range(2 * MAX_SOURCES):
        trials.on_failed(str(number), 0, connected=True)
    assert len(trials._beyond) == MAX_SOURCES
    for _ in range(20):
        trials.on_succeeded("x", 0, connected=True)
    assert trials.penalty_us("0", 0, connected=True) == 0
    assert trials.penalty_us(str(2 * MAX_SOURCES - 1), 0, connected=True) == TRIAL_US


def swarm(fakes, *, sources):
    """An honest peer that draws 20 steps of 200 ms, and `fakes` that claim 1 ms."""
    directory, crowd = Directory("me"), []
    for number in range(fakes + 1):
        key = number.to_bytes(32, "big")
        peer = peer_id_of(public_key_of(key))
        address = f"/ip4/192.0.2.{number % 250}" if sources == 1 else f"/ip4/198.18.{number % 250}.1"
        told = advert(
            models=(offered(step_us=1_000 if number else 200_000),),
            addresses=(f"{address}/tcp/1/p2p/{peer}",) if number else ("/ip4/203.0.113.1/tcp/1",),
        )
        directory.on_advert(SignedAdvert.sign(told, network="test", private_key=key), 0, 0)
        crowd.append(peer)
    honest, *_ = crowd
    directory.on_connected(honest)
    for _ in range(8):
        directory.on_rtt(honest, 20_000, 0)
    directory.on_state(honest, live(), 0)
    return directory, honest


def asked_before_the_honest(directory, honest, now_us):
    """How many fail in one job before the honest peer is asked, which then draws."""
    tried = set()
    while True:
        candidates = directory.candidates(now_us, own=False)
        peer = (
            plan(candidates, statement(), now_us=now_us, excluded=frozenset(tried), seed=len(tried))
            .ranked[0]
            .peer
        )
        if peer == honest:
            directory.on_drawn(peer, now_us)
            return len(tried)
        directory.on_penalty(peer, now_us)
        tried.add(peer)


def test_a_crowd_of_fakes_from_one_source_or_many_gets_a_handful_of_trials():
    for sources, first in ((1, 2), (200, 2)):
        directory, honest = swarm(200, sources=sources)
        jobs = [asked_before_the_honest(directory, honest, number * 10 * S) for number in range(12)]
        assert jobs[0] <= first
        assert sum(jobs) <= 6


def test_who_has_drawn_is_not_touched_by_a_crowd_from_where_it_is():
    directory, honest = swarm(40, sources=1)
    directory.on_drawn(honest, 0)
    for candidate in directory.candidates(0, own=False):
        if candidate.peer != honest:
            directory.on_penalty(candidate.peer, 0)
    penalties = {each.peer: each.penalty_us for each in directory.candidates(0, own=False)}
    assert penalties.pop(honest) == 0
    assert min(penalties.values()) >= MAX_PENALTY_US
