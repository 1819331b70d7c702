"""Links in virtual time: exact arrivals, and what holds for every packet."""

import random

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testnet import packets, topology
from testnet.link import LEAST_QUEUE_BYTES, NS, Fabric, Line, LineState, Path, PathState
from testnet.rtt_matrix import BadMatrix

MS = 1_000_000  # ns


def test_a_packet_takes_its_sending_time_and_its_delay() -> None:
    fabric: Fabric[str] = Fabric(2, seed=1)
    fabric.set_path(0, 1, Path(delay_us=15_000))
    fabric.set_lines(0, Line(8_000_000), Line(), 0)  # 1 byte a us
    assert fabric.next_due_ns() is None
    assert fabric.send(0, 1, 1000, 0, "a") is None
    assert fabric.send(0, 1, 500, 0, "b") is None
    assert fabric.next_due_ns() == 16 * MS
    assert fabric.due(16 * MS - 1) == []
    assert [(f.packet, f.out_ns) for f in fabric.due(17 * MS)] == [("a", 16 * MS), ("b", 16 * MS + MS // 2)]


def test_the_receivers_line_serves_in_the_order_of_arrival_not_of_sending() -> None:
    fabric: Fabric[str] = Fabric(3, seed=1)
    fabric.set_path(0, 2, Path(delay_us=100_000))
    fabric.set_path(1, 2, Path(delay_us=1_000))
    fabric.set_lines(2, Line(), Line(8_000_000), 0)
    fabric.send(0, 2, 1000, 0, "far")
    fabric.send(1, 2, 1000, 0, "near")
    arrived = fabric.due(NS)
    assert [(f.packet, f.out_ns) for f in arrived] == [("near", 2 * MS), ("far", 101 * MS)]


def test_a_full_queue_drops_the_tail_and_only_that() -> None:
    fabric: Fabric[int] = Fabric(2, seed=1)
    fabric.set_lines(0, Line(8_000_000, queue_us=1), Line(), 0)
    fates = [fabric.send(0, 1, 1024, 0, number) for number in range(70)]
    assert [ended is None for ended in fates] == [True] * (LEAST_QUEUE_BYTES // 1024) + [False] * 6
    assert fabric.statistics.fates == {"queue full": 6}
    assert fabric.send(0, 1, 1024, 2 * MS, 70) is None  # two have left


def test_the_same_seed_gives_the_same_world_and_pairs_do_not_share_dice() -> None:
    def world(seed: int, disturbed: bool) -> list[int]:
        fabric: Fabric[int] = Fabric(3, seed)
        for pair in ((0, 1), (0, 2)):
            fabric.set_path(*pair, Path(delay_us=10_000, jitter_us=3_000, loss_millionths=200_000))
        for number in range(200):
            fabric.send(0, 1, 100, number * MS, number)
            if disturbed:
                fabric.send(0, 2, 100, number * MS, number)
        return [f.packet * NS + f.out_ns for f in fabric.due(100 * NS) if f.destination == 1]

    assert world(7, False) == world(7, True)
    assert world(7, False) != world(8, False)
    assert 120 < len(world(7, False)) < 200


def test_a_cut_lets_arrive_what_was_under_way_and_heals() -> None:
    fabric: Fabric[str] = Fabric(2, seed=1)
    fabric.set_path(0, 1, Path(delay_us=10_000))
    fabric.send(0, 1, 100, 0, "before")
    fabric.set_path(0, 1, Path(delay_us=10_000, cut=True))
    ended = fabric.send(0, 1, 100, MS, "during")
    assert ended is not None
    assert ended.fate == "cut"
    fabric.set_path(0, 1, Path(delay_us=10_000))
    fabric.send(0, 1, 100, 2 * MS, "after")
    assert [f.packet for f in fabric.due(NS)] == ["before", "after"]


def test_a_shorter_path_does_not_overtake_what_was_sent_before() -> None:
    state = PathState(Path(delay_us=100_000), "1")
    first = state.enter(0)
    state.path = Path(delay_us=1_000)
    assert state.enter(MS) == first
    state.path = Path(delay_us=1_000, reorders=True)
    assert state.enter(2 * MS) == 3 * MS


def test_a_slower_line_sends_what_waits_at_its_new_rate() -> None:
    line = LineState(Line(8_000_000))
    assert line.enter(10_000, 0) == 10 * MS
    line.change(Line(4_000_000), 5 * MS)  # 5,000 bytes wait
    assert line.enter(1_000, 5 * MS) == 5 * MS + 10 * MS + 2 * MS


def test_nobody_lives_outside() -> None:
    fabric: Fabric[str] = Fabric(2, seed=1)
    for source, destination in ((0, 2), (0, -1)):
        ended = fabric.send(source, destination, 100, 0, "")
        assert ended is not None
        assert ended.fate == "no host"


@pytest.mark.parametrize(
    "wrong", [{"delay_us": -1}, {"jitter_us": -1}, {"loss_millionths": 1_000_001}, {"delay_us": 10**9}]
)
def test_impossible_paths_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="a path"):
        Path(**wrong)
    with pytest.raises(ValueError, match="a line"):
        Line(0)


# Nanoseconds since the last, and bytes.
traffic = st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(40, 1500)), min_size=1, max_size=120)


@given(traffic, st.integers(100_000, 1_000_000_000), st.integers(0, 200_000))
def test_a_line_keeps_its_rate_over_every_window_and_its_order(packets, rate, queue_us) -> None:
    line = LineState(Line(rate, queue_us))
    now, sent = 0, []
    for gap, size in packets:
        now += gap
        out = line.enter(size, now)
        if out is not None:
            assert out - now >= size * 8 * NS // rate  # never sooner than it takes to send
            sent.append((out, size))
    outs = [out for out, _ in sent]
    assert outs == sorted(outs)
    for first in range(len(sent)):
        carried = 0
        for last in range(first + 1, len(sent)):
            carried += sent[last][1]
            assert carried * 8 * NS <= rate * (sent[last][0] - sent[first][0])


@given(traffic, st.integers(0, 100_000), st.integers(0, 50_000), st.integers(0, 500_000))
def test_a_path_keeps_its_order_and_is_never_quicker_than_its_delay(packets, delay, jitter, loss) -> None:
    state = PathState(Path(delay, jitter, loss), "seed")
    now, last = 0, 0
    for gap, _ in packets:
        now += gap
        out = state.enter(now)
        if isinstance(out, int):
            assert out >= now + delay * 1000
            assert out >= last
            last = out


@given(st.integers(0, 1000), st.integers(1, 400))
def test_everything_sent_is_accounted_for(seed: int, count: int) -> None:
    dice = random.Random(seed)
    fabric: Fabric[int] = Fabric(4, seed)
    for a in range(4):
        fabric.set_lines(a, Line(dice.randrange(10**5, 10**8)), Line(dice.randrange(10**5, 10**8)), 0)
        for b in range(4):
            fabric.set_path(a, b, Path(dice.randrange(50_000), dice.randrange(9_000), 50_000))
    now, ended = 0, []
    for number in range(count):
        now += dice.randrange(2 * MS)
        flight = fabric.send(dice.randrange(4), dice.randrange(4), dice.randrange(40, 1500), now, number)
        ended += [flight] if flight else []
        ended += fabric.due(now)
    while (due := fabric.next_due_ns()) is not None:
        ended += fabric.due(due)
    assert sorted(flight.packet for flight in ended) == list(range(count))
    assert sum(fabric.statistics.fates.values()) == fabric.statistics.sent == count


# --- the record


def test_a_record_is_read_back_and_may_end_inside_an_entry(tmp_path) -> None:
    path = tmp_path / "packets"
    recorder = packets.Recorder(path, ["10.66.0.1", "10.66.0.2"])
    fabric: Fabric[bytes] = Fabric(2, seed=1)
    tcp = (
        (4000).to_bytes(2, "big")
        + (4001).to_bytes(2, "big")
        + bytes([0, 0, 0, 7, 0, 0, 0, 9, 0x50, 16])
        + bytes(6)
    )
    ip = bytes([0x45]) + bytes(8) + bytes([6]) + bytes(10) + tcp + b"payload"
    fabric.send(0, 1, len(ip), 5, ip)
    (flight,) = fabric.due(5)
    recorder.write(flight, 11)
    recorder.close()
    with path.open("ab") as file:
        file.write(b"cut")
    assert packets.read_hosts(path) == ["10.66.0.1", "10.66.0.2"]
    (packet,) = packets.read(path)
    assert packet == packets.Packet(5, 11, 47, 7, 9, 0, 1, 4000, 4001, 16, "delivered", 7)


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"[]\n", b'{"format": "other", "entry_bytes": 40}\n'])
def test_what_is_no_record_is_told(tmp_path, content) -> None:
    (tmp_path / "packets").write_bytes(content)
    with pytest.raises(packets.BadRecord, match="packets"):
        list(packets.read(tmp_path / "packets"))


# --- topologies


@pytest.mark.parametrize("name", topology.NAMED)
def test_named_topologies_are_symmetric_and_near_is_nearer(name) -> None:
    made = topology.NAMED[name]()
    for a in made.places:
        for b in made.places:
            there, back = made.path(a.name, b.name), made.path(b.name, a.name)
            assert there.delay_us == back.delay_us
    assert made.name == name
    with pytest.raises(KeyError, match="has no place 'nowhere'"):
        made.place("nowhere")


def test_one_direction_can_be_set() -> None:
    made = topology.lan().with_path("lan", "lan", Path(delay_us=9))
    assert made.path("lan", "lan") == Path(delay_us=9)


def test_a_matrix_file_gives_its_distances_and_fills_in_what_is_unknown(tmp_path) -> None:
    nan = float("nan")
    numpy.savez(tmp_path / "m.npz", rtt_ms=numpy.array([[0, 10, 30], [12, 0, nan], [31, nan, 0]]))
    made = topology.from_file(tmp_path / "m.npz")
    assert made.path("0", "1").delay_us == 5000
    assert made.path("1", "0").delay_us == 6000
    assert made.path("1", "2").delay_us == 21_000  # over 0
    assert made.path("1", "1").delay_us == topology.INNER_RTT_US // 2
    assert made.notes == ("2 round trips were not known: ways over a third place.",)
    (tmp_path / "m.csv").write_text("0,10,30\n12,0,\n31,nan,0\n")
    assert topology.from_file(tmp_path / "m.csv").rtt_us == made.rtt_us


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0,-1\n1,0\n", r"rtt_ms\[0, 1\] is -1 ms: .* negative"),
        ("0,inf\n1,0\n", "infinite"),
        ("0,70000\n1,0\n", "longer than 60 s"),
        ("0,1,2\n1,0,2\n", "not square: row 0 has 3 entries where 2 rows"),
        ("0,1\n2,x\n", "row 1, column 1 is 'x'; it must be a number"),
        ("0,nan\n,0\n", "missing"),
        ("", "shape"),
        ("\0", "CSV|is '"),
    ],
)
def test_a_bad_csv_matrix_is_refused_with_the_entry_that_is_wrong(tmp_path, text, sentence) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(BadMatrix, match=sentence):
        topology.from_file(tmp_path / "m.csv")


def test_a_file_that_is_not_there_is_told(tmp_path) -> None:
    for name in ("none.csv", "none.npz"):
        with pytest.raises(BadMatrix, match=r"No such file|There is no file"):
            topology.from_file(tmp_path / name)
