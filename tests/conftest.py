"""For all tests."""

import signal

import pytest

from peer.store.ledger import Ledger

from .world import World, use_virtual_time

# A shell that starts them in the background ignores Ctrl-C for them, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def world(autojump_clock, monkeypatch, nursery):
    """Of peers in memory and virtual time: nobody yet."""
    use_virtual_time(monkeypatch)
    world = World(nursery)
    yield world
    for each in world.peers.values():
        each.close()


@pytest.fixture
async def alice(world):
    """Who only asks."""
    return await world.add("alice", provide=False)


@pytest.fixture
async def near(world, alice):
    """Who provides."""
    return await world.add("near")


@pytest.fixture
def ledger(tmp_path):
    with_file = Ledger(tmp_path / "ledger.sqlite3")
    yield with_file
    with_file.close()
