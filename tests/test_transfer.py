"""The window fills a long path, leaves a short one free, and believes no acknowledgement that cannot be."""

import hashlib
import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.wire.transfer import (
    CHUNK_BYTES,
    CHUNKS_PER_ACK,
    MIN_CHUNK_BYTES,
    MIN_RTT_LIFETIME_US,
    MIN_WINDOW_BYTES,
    PROBE_CHUNK_BYTES,
    QUEUE_US,
    START_CHUNK_BYTES,
    START_WINDOW_BYTES,
    Receiver,
    Sender,
)

MIB = 1 << 20


@dataclass
class Path:
    """A bottleneck with an endless queue, in virtual time."""

    rtt_us: int
    bytes_per_us: float
    jitter_us: int = 0
    changes: dict[int, tuple[int, float]] = field(default_factory=dict)  # at_us: (rtt_us, bytes_per_us)


@dataclass
class Outcome:
    us: int
    queueing_us: list[tuple[int, int]]  # when a chunk entered the queue, how long it stood there
    sender: Sender


def every_chunk(sender, now_us):
    """What may be sent now."""
    while (chunk := sender.next_chunk(now_us)) is not None:
        yield chunk


def transfer(path, total, *, noise=0, min_rtt_us=None):
    """`total` bytes of zeros, from the first chunk to the last acknowledgement."""
    random_ = random.Random(noise)
    sender = Sender(total, min_rtt_us=min_rtt_us, now_us=0)
    receiver = Receiver(total, bytes(32))
    events, order = [], itertools.count()
    free_at = last_arrival = last_ack = now = 0.0
    queueing = []
    data = bytes(CHUNK_BYTES)
    rtt_us, rate = path.rtt_us, path.bytes_per_us
    changes = sorted(path.changes.items())
    while not sender.done:
        while changes and changes[0][0] <= now:
            rtt_us, rate = changes.pop(0)[1]
        for chunk in every_chunk(sender, int(now)):
            queueing.append((int(now), int(max(0.0, free_at - now))))
            free_at = max(now, free_at) + chunk[1] / rate
            last_arrival = max(last_arrival, free_at + rtt_us / 2 + random_.random() * path.jitter_us)
            heapq.heappush(events, (last_arrival, next(order), "chunk", chunk))
        now, _, kind, what = heapq.heappop(events)
        if kind == "ack":
            sender.on_ack(what, int(now))
            continue
        offset, size = what
        receiver.on_chunk_untrusted(offset, data[:size])
        if (ack := receiver.ack()) is not None:
            last_ack = max(last_ack, now + rtt_us / 2)
            heapq.heappush(events, (last_ack, next(order), "ack", ack))
    return Outcome(int(now), queueing, sender)


def share_of(path, total, **options):
    """Of the link's rate, with the round trip that no sender can avoid counted against it."""
    return total / path.bytes_per_us / transfer(path, total, **options).us


def test_a_long_fat_path_is_filled():
    assert share_of(Path(150_000, 12.5), 64 * MIB) >= 0.8  # 100 Mbit/s


@pytest.mark.parametrize("seed", range(5))
def test_jitter_does_not_stop_it(seed):
    assert share_of(Path(150_000, 12.5, jitter_us=10_000), 64 * MIB, noise=seed) >= 0.8


@pytest.mark.parametrize(
    ("rtt_us", "bytes_per_us"), [(200, 125.0), (1_000, 12.5), (20_000, 12.5), (20_000, 125.0), (60_000, 2.5)]
)
def test_other_paths_are_filled_too(rtt_us, bytes_per_us):
    assert share_of(Path(rtt_us, bytes_per_us), 128 * MIB) >= 0.85


@pytest.mark.parametrize("bytes_per_us", [125.0, 60.0, 12.5])
def test_on_a_short_path_little_queues(bytes_per_us):
    outcome = transfer(Path(500, bytes_per_us), 64 * MIB)
    settled = [us for at_us, us in outcome.queueing_us if at_us > 500_000]
    standing = max(QUEUE_US, MIN_WINDOW_BYTES / bytes_per_us) + 3 * CHUNK_BYTES / bytes_per_us
    assert settled
    assert max(settled) < standing * 1.3
    assert max(us for _, us in outcome.queueing_us) <= max(10_000, 2 * START_WINDOW_BYTES / bytes_per_us)


NEXT_DOOR = Path(1_500, 25.0)  # 200 Mbit/s


def test_next_door_nothing_waits_longer_than_a_chunk_and_5_ms():
    outcome = transfer(NEXT_DOOR, 256 * MIB, min_rtt_us=1_500)
    chunk_us = MIN_CHUNK_BYTES / NEXT_DOOR.bytes_per_us
    queueing = [us for at_us, us in outcome.queueing_us if at_us > 50_000]
    assert max(queueing) <= QUEUE_US + chunk_us
    assert sum(queueing) / len(queueing) <= 2_500
    assert outcome.us <= 1.02 * 256 * MIB / NEXT_DOOR.bytes_per_us


def test_next_door_the_start_is_gentle_too():
    known = transfer(NEXT_DOOR, 4 * MIB, min_rtt_us=1_500)
    unknown = transfer(NEXT_DOOR, 4 * MIB)
    assert max(us for _, us in known.queueing_us) <= 2 * QUEUE_US
    assert max(us for _, us in known.queueing_us) < max(us for _, us in unknown.queueing_us) * 2 / 3
    assert known.us <= 1.02 * unknown.us


@pytest.mark.parametrize(("rtt_us", "bytes_per_us"), [(20_000, 12.5), (150_000, 12.5), (60_000, 2.5)])
def test_knowing_the_round_trip_of_a_longer_path_costs_nothing(rtt_us, bytes_per_us):
    path = Path(rtt_us, bytes_per_us)
    assert share_of(path, 64 * MIB, min_rtt_us=rtt_us) >= share_of(path, 64 * MIB) - 0.02


@pytest.mark.parametrize("min_rtt_us", [0, 1, 5_000, 500_000])
def test_a_round_trip_told_wrong_is_found_out(min_rtt_us):
    assert share_of(Path(50_000, 12.5), 256 * MIB, min_rtt_us=min_rtt_us) >= 0.8


def test_chunks_are_as_long_in_time_as_the_path_allows():
    assert transfer(Path(1_500, 2.5), 4 * MIB).sender.statistics()["chunk_bytes"] == MIN_CHUNK_BYTES
    assert transfer(Path(500, 60.0), 64 * MIB).sender.statistics()["chunk_bytes"] == pytest.approx(
        24_000, rel=0.1
    )
    assert transfer(Path(500, 1250.0), 256 * MIB).sender.statistics()["chunk_bytes"] == CHUNK_BYTES


def test_the_minimum_is_measured_again_with_single_packets():
    sender, now_us = Sender(256 * MIB, min_rtt_us=1_000, now_us=0), 0
    while True:
        sizes = [size for _, size in every_chunk(sender, now_us)]
        if now_us > MIN_RTT_LIFETIME_US and sizes[0] == PROBE_CHUNK_BYTES:
            break
        now_us += 6_000
        sender.on_ack(sender.statistics()["sent_bytes"], now_us)
    assert sizes == [PROBE_CHUNK_BYTES] * CHUNKS_PER_ACK
    for rtt_us in (6_000, 5_500):  # the first round may still hold what was sent before it
        list(every_chunk(sender, now_us))
        now_us += rtt_us
        sender.on_ack(sender.statistics()["sent_bytes"], now_us)
    assert sender.statistics()["min_rtt_us"] == 5_500
    assert sender.next_chunk(now_us)[1] > PROBE_CHUNK_BYTES


def test_a_window_of_many_megabytes_is_not_held_on_a_short_path():
    outcome = transfer(Path(500, 60.0), 64 * MIB)
    assert outcome.sender.statistics()["window_bytes"] < MIB // 4


def test_a_queue_that_stands_shrinks_the_window():
    path = Path(20_000, 12.5, changes={1_000_000: (20_000, 2.5)})
    assert transfer(path, 16 * MIB).sender.statistics()["shrinks"] > 0


def test_a_slow_path_keeps_its_chunks_moving():
    outcome = transfer(Path(10_000, 0.125), 4 * MIB)  # 1 Mbit/s: one chunk takes half a second
    assert outcome.us < 1.1 * 4 * MIB / 0.125
    assert max(us for at_us, us in outcome.queueing_us if at_us > 16_000_000) <= 4 * CHUNK_BYTES / 0.125


def test_a_path_that_grows_longer_is_filled_again():
    path = Path(50_000, 12.5, changes={1_000_000: (250_000, 12.5)})
    assert share_of(path, 256 * MIB) >= 0.7


def test_a_path_that_grows_slower_is_not_flooded():
    path = Path(20_000, 12.5, changes={2_000_000: (20_000, 2.5)})
    outcome = transfer(path, 64 * MIB)
    assert max(us for at_us, us in outcome.queueing_us if at_us > 6_000_000) < 100_000


def test_a_path_that_grows_faster_is_used():
    path = Path(100_000, 2.5, changes={1_000_000: (100_000, 25.0)})
    assert transfer(path, 128 * MIB).us < 1_000_000 + 1.4 * 128 * MIB / 25.0


def test_a_resumed_transfer_sends_only_what_is_left():
    sender = Sender(170_000, offset=150_000, now_us=0)
    assert sender.next_chunk(0) == (150_000, START_CHUNK_BYTES)
    assert sender.next_chunk(0) == (150_000 + START_CHUNK_BYTES, 20_000 - START_CHUNK_BYTES)
    assert sender.next_chunk(0) is None
    sender.on_ack(170_000, 10)
    assert sender.done


@pytest.mark.parametrize(
    ("min_rtt_us", "window_bytes"),
    [
        (None, START_WINDOW_BYTES),
        (150_000, START_WINDOW_BYTES),
        (2_500, START_WINDOW_BYTES // 2),
        (0, MIN_WINDOW_BYTES),
    ],
)
def test_the_first_window_is_what_it_says(min_rtt_us, window_bytes):
    sender = Sender(64 * MIB, min_rtt_us=min_rtt_us, now_us=0)
    sent = sum(size for _, size in every_chunk(sender, 0))
    assert window_bytes <= sent < window_bytes + CHUNK_BYTES


def test_nothing_to_send_is_done():
    assert Sender(7, offset=7, now_us=0).done
    with pytest.raises(ValueError, match="offset"):
        Sender(7, offset=8, now_us=0)


@pytest.mark.parametrize("offset", [START_CHUNK_BYTES - 1, 0, -1, 2 * START_CHUNK_BYTES + 1, 64 * MIB])
def test_acknowledgements_that_cannot_be_are_the_peers_fault(offset):
    sender = Sender(64 * MIB, now_us=0)
    sender.next_chunk(0), sender.next_chunk(0)
    sender.on_ack(START_CHUNK_BYTES, 5)
    with pytest.raises(RemoteProtocolError):
        sender.on_ack(offset, 6)


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(-(10**6), 10**9)), max_size=30))
def test_any_acknowledgements_at_any_times_leave_a_window_within_bounds(acks):
    sender = Sender(10 * MIB, now_us=0)
    now_us = acked = 0
    for grow, wait_us in acks:
        now_us += wait_us
        list(every_chunk(sender, now_us))
        acked = min(acked + grow, sender.statistics()["sent_bytes"])
        sender.on_ack(acked, now_us)
        assert MIN_WINDOW_BYTES <= sender.statistics()["window_bytes"] <= 32 * MIB


@given(
    st.integers(1, 3 * MIB),
    st.none() | st.integers(0, 200_000),
    st.lists(st.integers(0, 300_000), min_size=1, max_size=20),
)
def test_a_receiver_that_acknowledges_every_second_chunk_never_stops_it(total, min_rtt_us, waits_us):
    sender, receiver = Sender(total, min_rtt_us=min_rtt_us, now_us=0), Receiver(total, bytes(32))
    now_us, waits_us = 0, itertools.cycle(waits_us)
    on_the_way = []
    while not sender.done:
        on_the_way += every_chunk(sender, now_us)
        now_us += next(waits_us)
        offset, size = on_the_way.pop(0)  # IndexError: nothing is under way, and nothing may be sent
        receiver.on_chunk_untrusted(offset, bytes(size))
        if (ack := receiver.ack()) is not None:
            sender.on_ack(ack, now_us)


DATA = bytes(range(256)) * 1024


def deliver(receiver, data=DATA, start=0):
    acks = []
    for offset in range(start, len(data), CHUNK_BYTES):
        receiver.on_chunk_untrusted(offset, data[offset : offset + CHUNK_BYTES])
        acks.append(receiver.ack())
    return acks


def test_a_receiver_acknowledges_every_second_chunk_and_the_end():
    receiver = Receiver(len(DATA), hashlib.sha256(DATA).digest())
    assert deliver(receiver) == [None, 2 * CHUNK_BYTES, None, 4 * CHUNK_BYTES, len(DATA)]
    assert receiver.complete
    receiver.finish_untrusted()


def test_a_resumed_receiver_goes_on_with_its_hash():
    prefix = hashlib.sha256(DATA[:1000])
    receiver = Receiver(len(DATA), hashlib.sha256(DATA).digest(), offset=1000, prefix_hash=prefix)
    deliver(receiver, start=1000)
    receiver.finish_untrusted()
    with pytest.raises(ValueError, match="resume"):
        Receiver(len(DATA), bytes(32), offset=1000)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (1, 10), (0, CHUNK_BYTES + 1), (0, 1001), (-1, 10)], ids=str
)
def test_chunks_out_of_place_are_the_peers_fault(offset, size):
    receiver = Receiver(1000, bytes(32))
    with pytest.raises(RemoteProtocolError):
        receiver.on_chunk_untrusted(offset, bytes(size))


def test_a_repeated_chunk_is_the_peers_fault():
    receiver = Receiver(1000, bytes(32))
    receiver.on_chunk_untrusted(0, bytes(10))
    with pytest.raises(RemoteProtocolError):
        receiver.on_chunk_untrusted(0, bytes(10))


def test_an_end_too_early_or_a_flipped_byte_is_the_peers_fault():
    short = Receiver(len(DATA), hashlib.sha256(DATA).digest())
    short.on_chunk_untrusted(0, DATA[:10])
    with pytest.raises(RemoteProtocolError, match="10 of"):
        short.finish_untrusted()
    wrong = Receiver(len(DATA), hashlib.sha256(DATA).digest())
    deliver(wrong, DATA[:-1] + b"!")
    with pytest.raises(RemoteProtocolError, match="hash"):
        wrong.finish_untrusted()
