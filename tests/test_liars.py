"""Adverts and live states that lie: what one saw oneself corrects them within three jobs."""

import pytest

from protocol.policy.directory import Directory
from protocol.policy.selection import plan
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import advert, live, offered, statement

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
        told = advert(models=(offered(step_us=step_us),), **(claims if name == "liar" else {}))
        directory.on_advert(SignedAdvert.sign(told, network="test", private_key=key), 0, 0)
        directory.on_connected(PEERS[name])
        for _ in range(8):
            directory.on_rtt(PEERS[name], 20_000, 0)
        directory.on_state(PEERS[name], live(), 0)
    return directory


def first(directory, now_us):
    for peer in PEERS.values():
        directory.on_state(peer, live(), now_us)  # as ever: idle, and the model in memory
    return plan(directory.candidates(now_us, own=False), statement(), now_us=now_us, seed=now_us).ranked[0]


def draws(directory, choice, now_us):
    """It is as slow as it is."""
    directory.speeds.on_render(choice.peer, statement(), step_us=STEP_US[choice.peer], fixed_us=50_000)


def draws_late(directory, choice, now_us):
    """It says that it starts at once, and has others' work to do, or a model to load."""
    took_us = choice.start_within_us(0, 0) + 4 * S
    directory.on_start(choice.peer, b"a", promised_us=0, took_us=took_us, now_us=now_us + took_us)


def loads(directory, choice, now_us):
    """It said that the model was in memory; what it then promises of loading it, it keeps."""
    promised_us = choice.start_within_us(0, 5 * S)
    directory.on_start(choice.peer, b"a", promised_us=promised_us, took_us=5 * S, now_us=now_us + 5 * S)


def stops(directory, choice, now_us):
    """It dies in the middle of the picture."""
    directory.speeds.on_steps(choice.peer, statement(), 3, 3 * STEP_US[choice.peer])


def refuses(directory, choice, now_us):
    """Its queue is full; it tells of no wait."""
    directory.on_refused(choice.peer, max_wait_us=choice.max_wait_us, busy_us=choice.busy_us, now_us=now_us)


def refuses_whatever_the_wait(directory, choice, now_us):
    """There is no room in its queue at all, though it tells of no wait."""
    directory.on_refused(choice.peer, max_wait_us=None, busy_us=choice.busy_us, now_us=now_us)


@pytest.mark.parametrize(
    ("does", "asked"),
    [
        (draws, "LHHHHHHH"),
        (draws_late, "LHHHHHHH"),
        (loads, "LHHHHHHH"),
        (stops, "LHHHHHHH"),
        (refuses, "LLLHHHHH"),
        # Predicted alike after the second, and drawn by chance once more.
        (refuses_whatever_the_wait, "LLHHLHHH"),
    ],
)
def test_a_lie_is_believed_for_three_jobs_at_most(does, asked):
    directory, seen = swarm(), ""
    for number in range(len(asked)):
        now_us = number * S
        choice = first(directory, now_us)
        seen += "L" if choice.peer == LIAR else "H"
        if choice.peer == LIAR:
            does(directory, choice, now_us)
    assert seen == asked


@pytest.mark.parametrize("wait_us", [0, 1, 10**15])
def test_no_wait_that_is_told_makes_a_prediction_negative(wait_us):
    directory = swarm()
    directory.on_state(LIAR, live(wait_us), 0)
    for each in plan(directory.candidates(10 * S, own=False), statement(), now_us=10 * S, seed=1).ranked:
        assert each.predicted_us > 0
        assert all(us >= 0 for _, us in each.spans)
