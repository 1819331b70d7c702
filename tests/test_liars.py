"""Adverts and live states that lie: what one saw oneself corrects them within three jobs."""

import pytest

from protocol.policy.directory import Directory
from protocol.policy.selection import plan
from protocol.policy.speeds import loaded_us
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import MODEL, advert, live, offered, statement

S = 1_000_000
KEYS = {"honest": b"h" * 32, "liar": b"l" * 32}
PEERS = {name: peer_id_of(public_key_of(key)) for name, key in KEYS.items()}
HONEST, LIAR = PEERS["honest"], PEERS["liar"]
STEP_US = {HONEST: 40_000, LIAR: 60_000}


def swarm(**claims):
    """Two idle peers as near as each other; the slower one claims to be ten times faster than it is."""
    directory = Directory("me")
    for name, key in KEYS.items():
        step_us = STEP_US[PEERS[name]] // (10 if name == "liar" else 1)
        told = advert(models=(offered(step_us=step_us, load_us=1_000),), **claims)
        directory.on_advert(SignedAdvert.sign(told, network="test", private_key=key), 0, 0)
        directory.on_connected(PEERS[name])
        for _ in range(8):
            directory.on_rtt(PEERS[name], 20_000, 0)
        directory.on_state(PEERS[name], live(), 0)
    return directory


def first(directory, now_us, resident=None):
    for peer in PEERS.values():
        state = live() if resident is None else live(resident=resident)
        directory.on_state(peer, state, now_us)  # as ever: idle, and the model in memory
    return plan(directory.candidates(now_us, own=False), statement(), now_us=now_us, seed=now_us).ranked[0]


def draws(directory, choice, now_us):
    """It is as slow as it is."""
    directory.speeds.on_render(choice.peer, statement(), step_us=STEP_US[choice.peer], fixed_us=50_000)
    directory.on_drawn(choice.peer, now_us)


def draws_late(directory, choice, now_us):
    """It says that it starts at once, and has others' work to do, or a model to load."""
    took_us = choice.start_within_us(0, 0) + 4 * S
    directory.on_start(choice.peer, b"a", promised_us=0, took_us=took_us, now_us=now_us + took_us)
    directory.on_drawn(choice.peer, now_us + took_us)


def loads(directory, choice, now_us):
    """It said that the model was in memory; what it then promises of loading it, it keeps."""
    promised_us = choice.start_within_us(0, 5 * S)
    directory.on_start(choice.peer, b"a", promised_us=promised_us, took_us=5 * S, now_us=now_us + 5 * S)
    directory.on_drawn(choice.peer, now_us + 6 * S)


def loads_long(directory, choice, now_us):
    """It said that its model is loaded in no time, and promises a minute, as whoever must load one does."""
    promised_us = choice.start_within_us(0, 60 * S)
    directory.on_start(choice.peer, b"a", promised_us=promised_us, took_us=9 * S, now_us=now_us + 9 * S)
    directory.speeds.on_load(choice.peer, MODEL, loaded_us([("load_weights", 0, 1_000)], 9 * S))
    directory.on_drawn(choice.peer, now_us + 10 * S)


def stops(directory, choice, now_us):
    """It dies in the middle of the picture."""
    directory.speeds.on_steps(choice.peer, statement(), 3, 3 * STEP_US[choice.peer])
    directory.on_penalty(choice.peer, now_us)


def fails(directory, choice, now_us):
    """It has not the memory that it says it has: nobody's fault, by its word."""
    directory.on_excuse(choice.peer, now_us)


def refuses(directory, choice, now_us):
    """Its queue is full; it tells of no wait."""
    directory.on_refused(choice.peer, max_wait_us=choice.max_wait_us, busy_us=choice.busy_us, now_us=now_us)


def refuses_whatever_the_wait(directory, choice, now_us):
    """There is no room in its queue at all, though it tells of no wait."""
    directory.on_refused(choice.peer, max_wait_us=None, busy_us=choice.busy_us, now_us=now_us)


def asked(does, jobs, every_s, **claims):
    """L for each job for which the liar is asked first, H for each other one."""
    directory, seen = swarm(lifetime_s=6000, **claims), ""
    resident = () if does is loads_long else None
    for number in range(jobs):
        now_us = number * every_s * S
        choice = first(directory, now_us, resident)
        seen += "L" if choice.peer == LIAR else "H"
        (does if choice.peer == LIAR else draws)(directory, choice, now_us)
    return seen


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        (draws, "LHHHHHHH"),
        (draws_late, "LHHHHHHH"),
        (loads, "LHHHHHHH"),
        (loads_long, "LHHHHHHH"),
        (stops, "LHHHHHHH"),
        (fails, "LLHHHHHH"),
        (refuses, "LLLHHHHH"),
        # Predicted alike after the second, and drawn by chance once more.
        (refuses_whatever_the_wait, "LLHHLHHH"),
    ],
)
def test_a_lie_is_believed_for_three_jobs_at_most(does, seen):
    assert asked(does, len(seen), 1) == seen


@pytest.mark.parametrize("does", [draws, draws_late, loads, loads_long, stops, fails])
@pytest.mark.parametrize("every_s", [10, 60, 300])
def test_nor_for_more_where_jobs_are_minutes_apart(does, every_s):
    """A refusal costs a round trip, and is forgotten; what made a job late is not."""
    seen = asked(does, 16, every_s)
    assert seen[:4].count("L") <= 3
    assert seen.count("L") <= 4


@pytest.mark.parametrize("wait_us", [0, 1, 10**15])
def test_no_wait_that_is_told_makes_a_prediction_negative(wait_us):
    directory = swarm()
    directory.on_state(LIAR, live(wait_us), 0)
    for each in plan(directory.candidates(10 * S, own=False), statement(), now_us=10 * S, seed=1).ranked:
        assert each.predicted_us > 0
        assert all(us >= 0 for _, us in each.spans)
