"""Whom the peers of a swarm that has been together for a while know, and where they say they are, by the protocol's rules.

Round trips are measured, coordinates settle, adverts come by one topic or by that of a shard and by lookups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from protocol.policy.coordinates import PEER_EVERY_US, Coordinates
from protocol.policy.lookups import FOUND_AT_ONCE, LOOK_EVERY_US
from protocol.policy.neighbours import CONNECTIONS
from protocol.wire.coordinate import Coordinate
from protocol.wire.lookup import place_of, shard_of

from .control import depth, usual_pace
from .world import World

SAMPLES = 100  # that each provider and each requester has taken at least: Vivaldi settles within some dozens
PINGS = 6  # of which the shortest is the distance


@dataclass(frozen=True)
class Acquaintance:
    """Lists of providers and of requesters, by their numbers."""

    bits: int  # depth of everyone's shard
    providers_at: list[Coordinate | None]
    requesters_at: list[Coordinate]
    known: list[list[int]]  # providers whose adverts each requester has
    held: list[list[int]]  # and each provider
    mates: list[list[int]]  # requesters of each provider's shard: they hear its adverts by gossip


def acquaint(world: World, providers: Sequence[str], requesters: Sequence[str], dice: Random) -> Acquaintance:
    """Where all can be connected, nobody needs to say where it is."""
    everyone = list(range(len(providers)))
    if len(providers) <= CONNECTIONS:
        nowhere, askers = Coordinate(0, 0, 0, 0, 0), list(range(len(requesters)))
        return Acquaintance(
            0,
            [None for _ in providers],
            [nowhere for _ in requesters],
            [everyone for _ in requesters],
            [everyone for _ in providers],
            [askers for _ in providers],
        )
    there, here = _settled(world, providers, requesters, dice)
    peers = len(providers) + len(requesters)
    bits, _ = depth(peers)
    # A lookup for who is near and one for who is anywhere take turns, and what they find is kept for its lifetime.
    found = FOUND_AT_ONCE * usual_pace(peers).lifetime_s * 1_000_000 // (2 * LOOK_EVERY_US)
    shards = [shard_of(place_of(peer), bits) for peer in providers]
    askers_shards = [shard_of(place_of(peer), bits) for peer in requesters]

    def known(at: Coordinate, own: int) -> list[int]:
        elsewhere = [provider for provider in everyone if shards[provider] != own]
        elsewhere.sort(key=lambda provider: at.rtt_us(there[provider]))
        near, rest = elsewhere[:found], elsewhere[found:]
        mates = [provider for provider in everyone if shards[provider] == own]
        return sorted({*mates, *near, *dice.sample(rest, min(found, len(rest)))})

    return Acquaintance(
        bits,
        list(there),
        here,
        [known(at, own) for at, own in zip(here, askers_shards, strict=True)],
        [known(at, own) for at, own in zip(there, shards, strict=True)],
        [[asker for asker, shard in enumerate(askers_shards) if shard == own] for own in shards],
    )


def _settled(
    world: World, providers: Sequence[str], requesters: Sequence[str], dice: Random
) -> tuple[list[Coordinate], list[Coordinate]]:
    """In each round every requester measures one provider, by lot, and the provider it."""
    there = [Coordinates(peer.encode()) for peer in providers]
    here = [Coordinates(peer.encode()) for peer in requesters]
    for turn in range(-(-SAMPLES * max(len(there), len(here)) // len(here))):
        at_us, shift = turn * PEER_EVERY_US, dice.randrange(len(there))
        for requester, ours in enumerate(here):
            provider = (requester + shift) % len(there)
            theirs = there[provider]
            rtt_us = min(world.round_trip_us(requester, provider, dice) for _ in range(PINGS))
            told = ours.own
            ours.on_rtt(providers[provider], theirs.own, rtt_us, at_us)
            theirs.on_rtt(requesters[requester], told, rtt_us, at_us)
    return [each.own for each in there], [each.own for each in here]
