"""The witness, on records of packets that are made up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from peer.picture import Bundle, embed
from protocol.wire.offer import SignedOffer
from protocol.wire.task import OfferMessage
from testnet import packets, witness
from testnet.packets import Fate, Packet

from .samples import NETWORK, OFFER, REQUESTER_SEED, SIGNED_RECEIPT, STATEMENT
from .world import picture

ASKED_US = 90_000
HERE, THERE = 0, 1


class Line:
    """One direction of a connection, packet by packet."""

    def __init__(self, source: int, seq: int = 0) -> None:
        self.record: list[Packet] = []
        self._ends, self._seq = (source, 1 - source), seq

    def say(self, in_ms: float, out_ms: float, payload_bytes: int, fate: Fate = "delivered") -> Packet:
        said = self._packet(in_ms, out_ms, payload_bytes, fate)
        self._seq = (self._seq + payload_bytes) % (1 << 32)
        return said

    def again(self, lost: Packet, in_ms: float, out_ms: float) -> None:
        self.record.append(
            replace(lost, in_ns=round(in_ms * 1e6), out_ns=round(out_ms * 1e6), fate="delivered")
        )

    def _packet(self, in_ms: float, out_ms: float, payload_bytes: int, fate: Fate) -> Packet:
        source, destination = self._ends
        at_ns = round(in_ms * 1e6), round(out_ms * 1e6)
        ports = 100 + source, 100 + destination
        packet = Packet(
            *at_ns, 40 + payload_bytes, self._seq, 0, source, destination, *ports, 16, fate, payload_bytes
        )
        self.record.append(packet)
        return packet


@pytest.fixture
def there() -> Line:
    line = Line(HERE)
    line.say(2, 7, 30)
    line.say(100, 105, 900)  # OFFER
    line.say(700, 705, 276)
    return line


@pytest.fixture
def back() -> Line:
    line = Line(THERE)
    line.say(3, 8, 30)
    line.say(104, 109, 250)  # before OFFER came
    line.say(106, 111, 200)  # ACCEPT
    for at_ms in range(150, 600, 50):
        line.say(at_ms, at_ms + 5, 110)  # PROGRESS
    line.say(598, 603, 400)  # RESULT
    line.say(600, 605, 1448)
    line.say(600.1, 606, 1448)
    line.say(600.2, 607, 160)
    return line


TOLD = witness.Told(99_900, 112_000, 597_500, 613_000, 370, 4200, 4264, 500)


def seen(told: witness.Told, *lines: Line) -> tuple[int, int, int]:
    flows = packets.flows([packet for line in lines for packet in line.record])
    return witness.phases(told, flows.get((HERE, THERE), []), flows.get((THERE, HERE), []))


def test_phases_are_found_by_the_sizes_of_their_messages(there: Line, back: Line) -> None:
    back.say(608, 613, 791)  # RECEIPT
    back.say(700, 705, 30)
    assert seen(TOLD, there, back) == (11_000, 487_000, 15_000)


def test_what_is_told_wrongly_is_not_what_is_seen(there: Line, back: Line) -> None:
    back.say(608, 613, 791)
    for wrong in (-40_000, -3_000, 5_000):
        assert seen(replace(TOLD, sent_us=TOLD.sent_us + wrong), there, back) == (11_000, 487_000, 15_000)
    for wrong in (-10_000, 200_000):
        assert seen(replace(TOLD, arrived_us=TOLD.arrived_us + wrong), there, back)[2] == 15_000


def test_messages_beside_a_transfer_do_not_hide_it(there: Line, back: Line) -> None:
    back.say(600.3, 607.1, 180)  # a pong
    back.say(608, 613, 791)
    assert seen(TOLD, there, back) == (11_000, 487_000, 15_000)


def test_a_receipt_in_the_last_packet_of_the_picture_is_found(there: Line, back: Line) -> None:
    back.record.pop()
    back._seq -= 160
    back.say(600.2, 607, 951)
    assert seen(TOLD, there, back) == (11_000, 487_000, 9_000)


def test_bytes_that_were_lost_came_when_they_came_again(there: Line, back: Line) -> None:
    lost = back.say(608, 0, 700, "lost")
    back.say(609, 614, 91)
    back.again(lost, 640, 645)
    assert seen(TOLD, there, back) == (11_000, 487_000, 47_000)


def test_sequence_numbers_begin_again_at_zero(there: Line) -> None:
    back = Line(THERE, seq=(1 << 32) - 4000)
    back.say(3, 8, 30)
    back.say(106, 111, 200)
    back.say(598, 603, 3449)
    back.say(608, 613, 791)
    assert seen(TOLD, there, back) == (11_000, 487_000, 15_000)


def test_another_connection_between_the_same_ports_is_another_flow(there: Line, back: Line) -> None:
    old = Line(THERE)
    old.say(1, 2, 5000)
    syn = replace(old.say(2.5, 2.6, 0), flags=packets.SYN)
    back.say(608, 613, 791)
    flows = packets.flows([*old.record, syn, *there.record, *back.record])
    assert [len(flow.segments) for flow in flows[THERE, HERE]] == [1, len(back.record)]
    assert witness.phases(TOLD, flows[HERE, THERE], flows[THERE, HERE]) == (11_000, 487_000, 15_000)


def test_it_says_what_was_not_seen(there: Line, back: Line) -> None:
    with pytest.raises(witness.NotSeen, match="4200 to 4264 bytes"):
        seen(TOLD, there, back)
    back.say(608, 0, 791, "lost")
    with pytest.raises(witness.NotSeen, match="4200 to 4264 bytes"):
        seen(TOLD, there, back)
    with pytest.raises(witness.NotSeen, match="answer to its offer"):
        seen(TOLD, there)
    with pytest.raises(witness.NotSeen, match="could hold its offer"):
        seen(replace(TOLD, offered_us=100_100), there, back)


def test_it_allows_three_milliseconds_or_two_percent() -> None:
    for told_us, seen_us, agrees in (
        (13_000, 10_000, True),
        (13_001, 10_000, False),
        (1_020_000, 1_000_000, True),
        (979_000, 1_000_000, False),
    ):
        assert witness.Compared(0, "drawing", told_us, seen_us, unsure_us=50_000).agrees is agrees


def test_an_offer_is_longer_than_the_shortest_one_that_is_looked_for() -> None:
    shortest = replace(OFFER, statement=replace(STATEMENT, prompt="", negative=""))
    envelope = SignedOffer.sign(shortest, network=NETWORK, private_key=REQUESTER_SEED).envelope
    assert witness._wire_bytes(OfferMessage(envelope.to_bytes(), 0)) > witness.LEAST_OFFER_BYTES


# a run that was kept


def span(
    name: str, start_us: int, us: int, observer: str = "me", attempt: str | None = "a"
) -> dict[str, object]:
    return {
        "span": name,
        "parent": None,
        "attempt": attempt,
        "observer": observer,
        "start_us": start_us,
        "us": us,
        "critical": True,
    }


TIMELINE = [
    span("plan", 0, 9_000, attempt=None),
    span("offer", 1_000, 5_000, attempt="lost"),
    span("offer", 9_900, 11_100),
    span("step", 100_000, 400_000, observer="it"),
    span("sign", 500_000, 7_000, observer="it"),
    span("leave", 507_000, 1_000, observer="it"),
    span("transfer", 508_000, 15_100),
]


@pytest.fixture
def run(tmp_path: Path, there: Line, back: Line) -> Path:
    """One job of `me`, whose bytes are what its picture and its timeline say."""
    file, _ = picture(16, 16, seed=1)
    receipt = SIGNED_RECEIPT.envelope.to_bytes()
    (tmp_path / "job-0.png").write_bytes(embed(file, Bundle(NETWORK, receipt).to_bytes()))
    journal = tmp_path / "peers" / "me" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    entries = (
        {"event": "planned", "job": "j", "asked_us": ASKED_US},
        {"event": "received", "job": "j", "attempt": "a", "offset_us": [7_000, 57_000]},
    )
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    job = {
        "number": 0,
        "via": "peer",
        "by": "me",
        "provider": "it",
        "job": "j",
        "attempts": [["it", "done"]],
        "timeline": TIMELINE,
    }
    (tmp_path / "result.json").write_text(json.dumps({"hosts": ["me", "it"], "outcome": {"jobs": [job]}}))
    told = witness.told_of(tmp_path, job)
    del back.record[-3:]
    back._seq -= 1448 + 1448 + 160
    back.say(600, 605, told.least_bytes + 32 - 400 - 791)
    back.say(608, 613, 791)
    write(tmp_path, there, back)
    return tmp_path


def write(folder: Path, *lines: Line) -> None:
    (folder / "packets").unlink(missing_ok=True)
    recorder = packets.Recorder(folder / "packets", ["10.0.0.1", "10.0.0.2"])
    recorder.close()
    with (folder / "packets").open("ab") as file:
        for packet in (packet for line in lines for packet in line.record):
            values = vars(packet) | {"fate": packets.FATES.index(packet.fate)}
            file.write(packets.ENTRY.pack(*values.values()))


def changed(run: Path, **changes: object) -> witness.Comparison:
    result = json.loads((run / "result.json").read_text())
    result["outcome"]["jobs"][0] |= changes
    (run / "result.json").write_text(json.dumps(result))
    return witness.compare(run)


def test_a_run_is_compared_phase_by_phase(run: Path) -> None:
    found = witness.compare(run)
    assert [(each.told_us, each.seen_us) for each in found.phases] == [
        (11_100, 11_000),
        (487_000, 487_000),
        (15_100, 15_000),
    ]
    assert found.ok
    assert not found.left_out
    assert witness.table(found).splitlines()[-1] == "transfer: 1 of 1 agree within 2% or 3 ms"


def test_a_timeline_that_lies_disagrees(run: Path) -> None:
    late = [
        each | {"start_us": 488_000, "us": 35_100} if each["span"] == "transfer" else each
        for each in TIMELINE
    ]
    found = changed(run, timeline=late)
    assert [each.agrees for each in found.phases] == [True, False, False]
    assert not found.ok
    assert "20.1 ms  disagrees; the provider's clock is known to 25.0 ms" in witness.table(found)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"via": "direct"}, "the broker drew it"),
        ({"timeline": []}, "no picture came of it"),
        ({"provider": "me"}, "it was drawn where it was asked for"),
        ({"timeline": TIMELINE[:3]}, "no offer, or of no transfer"),
        ({"job": "another"}, "the journal of me does not say"),
        ({"number": 7}, "job-7.png cannot be read"),
    ],
)
def test_what_cannot_be_compared_is_said_and_why(run: Path, changes: dict[str, object], why: str) -> None:
    found = changed(run, **changes)
    assert not found.phases
    assert not found.ok
    assert why in found.left_out[0].why
    assert f"not compared: {found.left_out[0].why}" in witness.table(found)


def test_a_folder_without_a_run_is_no_witness(tmp_path: Path) -> None:
    with pytest.raises(witness.NoWitness, match="holds no run over emulated links"):
        witness.compare(tmp_path)
