"""A wall clock that somebody sets, forwards or back, while the peer runs: it shows times wrongly and moves nothing else."""

import itertools
import socket
from types import SimpleNamespace

import pytest

import peer.host  # noqa: F401  with it, hardening is applied
from peer import clock, hardening
from protocol.policy.chain import Leg, lay
from protocol.policy.directory import Directory
from protocol.policy.timeline import Timeline
from protocol.wire.advert import SignedAdvert
from protocol.wire.identity import peer_id_of, public_key_of

from .truth import advert

S = 1_000_000
HOUR_US = 3600 * S
WALL_US = 1_700_000_000 * S
UP_US = 60 * S  # since the machine started: less than by how much clocks are set here
JUMPS_US = [HOUR_US, -HOUR_US]
ME = "12D3KooW-me"


class Clocks:
    """Those of the system; the wall clock has been set by `set_us`."""

    def __init__(self):
        self.at_us, self.set_us = UP_US, 0
        self.on_reading = lambda: None  # before each reading of the wall clock

    def monotonic_ns(self):
        return self.at_us * 1000

    def time_ns(self):
        self.on_reading()
        return (WALL_US + self.at_us + self.set_us) * 1000


@pytest.fixture
def clocks(monkeypatch):
    clocks = Clocks()
    monkeypatch.setattr(clock, "time", clocks)
    return clocks


@pytest.mark.parametrize("jump_us", JUMPS_US)
def test_what_the_peer_goes_by_is_not_the_wall_clock(clocks, jump_us):
    before_us = clock.wall_us()
    clocks.at_us, clocks.set_us = clocks.at_us + 5, jump_us
    assert clock.now_us() == UP_US + 5
    assert clock.wall_us() == before_us + 5 + jump_us


@pytest.mark.parametrize(
    ("jump_us", "told_us"), [(0, UP_US), (HOUR_US, UP_US - HOUR_US), (-HOUR_US, UP_US + 7)]
)
def test_a_stamp_is_never_later_than_now(clocks, jump_us, told_us):
    stamp_ns = clocks.time_ns()
    clocks.at_us, clocks.set_us = UP_US + 7, jump_us
    assert clock.stamped_us(stamp_ns) == told_us <= clock.now_us()


@pytest.mark.parametrize("jump_us", JUMPS_US)
def test_a_stamp_of_a_clock_that_is_set_between_two_readings_is_never_later_than_now(clocks, jump_us):
    stamp_ns, jumps = clocks.time_ns(), itertools.chain([0, jump_us], itertools.repeat(0))

    def on_reading():
        clocks.set_us += next(jumps)
        clocks.at_us += 1_000  # too slow to be two readings at once: it is tried again

    clocks.on_reading = on_reading
    assert clock.stamped_us(stamp_ns) <= clock.now_us()


class FakeSocket:
    """Each packet is read `late_us` after the system stamped it, and the clock is set by `jump_us` meanwhile."""

    def __init__(self, clocks):
        self.clocks, self.late_us, self.jump_us = clocks, 0, 0
        self.options = []

    def setsockopt(self, *option):
        self.options.append(option)

    async def recvmsg(self, n, space):
        ns = self.clocks.time_ns()
        self.clocks.at_us += self.late_us
        self.clocks.set_us += self.jump_us
        stamp = hardening._STAMP.pack(ns // 10**9, ns % 10**9)
        return b"x" * n, [(socket.SOL_SOCKET, hardening._SO_TIMESTAMPNS, stamp)], 0, None


@pytest.fixture
def arrivals(monkeypatch, clocks):
    """Reads a packet: when it came.  The connection was made just now."""
    monkeypatch.setattr(hardening, "sys", SimpleNamespace(platform="linux"))
    packets = FakeSocket(clocks)
    stream = hardening.TrioTCPStream(SimpleNamespace(socket=packets))
    assert packets.options == [(socket.SOL_SOCKET, hardening._SO_TIMESTAMPNS, 1)]

    async def arrive(*, after_us=0, late_us=0, jump_us=0):
        clocks.at_us += after_us
        packets.late_us, packets.jump_us = late_us, jump_us
        assert await stream.read(100) == b"x" * 100
        return hardening.arrived_us.get()

    return arrive


async def test_bytes_came_when_the_system_says_so(arrivals):
    assert await arrivals(after_us=500, late_us=40) == UP_US + 500
    assert await arrivals(after_us=500, late_us=40) == UP_US + 1_040


@pytest.mark.parametrize(
    ("jump_us", "came_us"),
    [
        (HOUR_US, UP_US + 500),  # when the last ones came: surely no earlier
        (-HOUR_US, UP_US + 1_080),  # when they were read: surely no later
    ],
)
async def test_bytes_came_in_order_whatever_becomes_of_the_wall_clock(clocks, arrivals, jump_us, came_us):
    assert await arrivals(after_us=500, late_us=40) == UP_US + 500
    assert await arrivals(after_us=500, late_us=40, jump_us=jump_us) == came_us <= clock.now_us()
    assert await arrivals(after_us=500, late_us=40) == UP_US + 1_580  # it was set once: stamps are good again


@pytest.mark.parametrize("jump_us", JUMPS_US)
async def test_the_first_bytes_came_no_earlier_than_their_connection(clocks, arrivals, jump_us):
    assert UP_US <= await arrivals(after_us=500, late_us=40, jump_us=jump_us) <= clock.now_us()


@pytest.mark.parametrize("jump_us", [0, *JUMPS_US])
async def test_no_span_is_negative_and_none_begins_before_it_was_asked(clocks, arrivals, jump_us):
    await arrivals(after_us=500, late_us=40)
    asked_us = clock.now_us()
    clocks.at_us += 100
    left_us = clock.now_us()
    heard_us = await arrivals(after_us=500, late_us=40, jump_us=jump_us)
    read_us = clock.now_us()
    leg = Leg(b"a" * 16, asked_us, None, asked_us)
    leg.add("address", asked_us, left_us, observer=ME)
    leg.add_heard("offer", left_us, heard_us, read_us, observer=ME)
    timeline = Timeline(asked_us)
    lay(timeline, [leg], leg, read_us, observer=ME)
    timeline.finish(read_us)
    assert timeline.wall_us == 640
    assert all(span.start_us >= 0 <= span.us and span.end_us <= 640 for span in timeline.spans())
    assert sum(span.us for span in timeline.spans() if span.critical) == 640
    assert timeline.unaccounted_us == 0


KEYS = [bytes([number]) * 32 for number in (2, 3, 4)]
PEERS = {peer_id_of(public_key_of(key)) for key in KEYS}


def told(directory, sequence, now_us, wall_us):
    """What comes of an advert of each peer, whose clocks are right; `wall_us` is what ours shows."""
    for key in KEYS:
        what = advert(sequence=sequence, issued_us=WALL_US + now_us, lifetime_s=180, name="oak")
        signed = SignedAdvert.sign(what, network="test", private_key=key)
        yield directory.on_advert(signed, now_us, wall_us)


@pytest.mark.parametrize(("jump_us", "where"), [(HOUR_US, "behind"), (-HOUR_US, "ahead of")])
def test_ones_own_clock_that_is_set_loses_no_peer_and_is_said_in_a_sentence(jump_us, where):
    directory = Directory(ME)
    for verdict in told(directory, 1, 0, WALL_US):
        assert (verdict.outcome, verdict.note) == ("new", None)
    skewed = f"The clock of oak is 60 min {where} ours: one of the two is wrong."
    for verdict in told(directory, 2, 30 * S, WALL_US + 30 * S + jump_us):
        assert (verdict.outcome, verdict.note) == ("newer", skewed)
    assert directory.notes() == (skewed,) * 3
    assert directory.expire(210 * S - 1) == ()
    assert {each.peer for each in directory.candidates(210 * S - 1)} == PEERS
    assert set(directory.expire(210 * S)) == PEERS  # as they would have without


@pytest.mark.parametrize("jump_us", JUMPS_US)
def test_nothing_is_said_any_more_once_the_clock_is_right_again(jump_us):
    directory = Directory(ME)
    for sequence, set_us in enumerate((0, jump_us, 0), 1):
        now_us = sequence * 30 * S
        assert all(verdict.fresh for verdict in told(directory, sequence, now_us, WALL_US + now_us + set_us))
        assert len(directory.notes()) == (3 if set_us else 0)
    assert {each.peer for each in directory.candidates(now_us)} == PEERS
