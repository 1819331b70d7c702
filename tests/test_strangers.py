"""Crowds of strangers that claim to be quick: a picture is drawn all the same, and hardly later."""

import hashlib
from dataclasses import replace

import pytest
import trio

from peer.network import DialFailed, NobodyListens
from protocol.wire.advert import SignedAdvert, Speed
from protocol.wire.identity import peer_id_of, public_key_of

from .world import MODEL, NETWORK, _offered, now_us

S = 1_000_000
ADDRESSES = 8
NEAR_NEEDS_S = 4.2


@pytest.fixture
async def slow(alice, near):
    """`near` needs 4 s for a picture, and alice knows it."""
    near.renderer.stage_us["step"] = S
    await alice.ask()
    return near


def crowd(alice, near, *, fakes, address, answer):
    """Of peers that nobody is: each tells of ADDRESSES, a dial of which ends as `answer`, a coroutine function, does."""
    real_dial = alice.host.dial

    async def dial(there, *, timeout_s=10.0):
        if not there.startswith("/ip4/198.18."):
            return await real_dial(there, timeout_s=timeout_s)
        raise await answer(there, timeout_s)

    alice.host.dial = dial
    for number in range(fakes):
        key = hashlib.sha256(b"fake %d" % number).digest()
        peer = peer_id_of(public_key_of(key))
        told = replace(
            near._able(),
            lifetime_s=600,
            addresses=tuple(
                f"/ip4/{address(number)}/tcp/{4001 + port}/p2p/{peer}" for port in range(ADDRESSES)
            ),
            models=(replace(_offered(MODEL), speeds=(Speed(64, 64, "fp32", 1000, 1000),)),),
        )
        signed = SignedAdvert.sign(told, network=NETWORK, private_key=key)
        assert alice.directory.on_advert(signed, now_us(), 0).fresh


async def silence(there, timeout_s):
    await trio.sleep(timeout_s)
    return DialFailed(there, "no answer")


async def refusal(there, timeout_s):
    await trio.sleep(0.05)
    return NobodyListens(there, "nobody is there")


@pytest.mark.parametrize("answer", [silence, refusal])
@pytest.mark.parametrize("sources", [1, 200])
async def test_a_crowd_of_strangers_that_cannot_be_reached_makes_a_picture_late_by_seconds_once(
    autojump_clock, alice, slow, sources, answer
):
    crowd(alice, slow, fakes=30, address=lambda n: f"198.18.{n % sources}.1", answer=answer)
    took_s, attempts = [], 0
    for _ in range(3):
        began_s = trio.current_time()
        drawn = await alice.ask()
        took_s.append(trio.current_time() - began_s)
        assert drawn.provider == slow.id
        attempts += len(drawn.attempts)
    # Another is asked once waiting took as long as that one would: twice that in all, beside two dials.
    assert took_s[0] < 2 * NEAR_NEEDS_S + 4
    assert sum(took_s[1:]) < 2 * NEAR_NEEDS_S + 1
    assert attempts <= 3 + 4


async def test_an_advert_makes_no_picture_dial_what_its_peer_may_not_dial(autojump_clock, alice, slow):
    alice.host.addresses = ("/ip4/9.9.9.9/tcp/4001",)  # a public one
    crowd(alice, slow, fakes=3, address=lambda _: "127.0.0.1", answer=refusal)
    real, seen = alice.host.dial, []

    async def dial(there, **more):
        seen.append(there)
        return await real(there, **more)

    alice.host.dial = dial
    assert (await alice.ask()).provider == slow.id
    assert seen == []
