"""Compares what peers say about a picture's time with what the router saw: packets, whose times no peer controls.

Three phases can be seen from outside, although everything is encrypted: *offer*, from the first packet to the provider
until its answer is handed over; *drawing*, from there until the first packet of the picture comes in; *transfer*, until
its last packet is handed over.  Peers and router read one clock.  What a peer waited for a core of a busy machine
before it saw a packet is in its timeline and not on the wire.
"""

import json
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import journals, packets
from .packets import Packet

WITHIN_US = 3_000
WITHIN_SHARE = 0.02
EARLY_US = 1_000  # the clock of a timeline is known to that from the journal
PHASES = ("offer", "drawing", "transfer")
_RECEIPT_CHUNK = b"tEXt"  # the requester puts the receipt into the picture, after it has come


class NoWitness(Exception):
    """The folder holds no run over emulated links that was kept."""


@dataclass(frozen=True)
class Compared:
    job: int
    phase: str
    told_us: int  # by the requester's timeline
    seen_us: int  # by the record of packets

    @property
    def agrees(self) -> bool:
        return abs(self.told_us - self.seen_us) <= max(WITHIN_US, WITHIN_SHARE * self.seen_us)


@dataclass(frozen=True)
class Told:
    """A timeline's three phases, as moments on CLOCK_MONOTONIC, us."""

    offered_us: int
    accepted_us: int
    sent_us: int
    arrived_us: int
    file_bytes: int


def compare(folder: Path) -> list[Compared]:
    """Every phase of every picture that a peer drew in one attempt; NoWitness, packets.BadRecord."""
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        hosts = {name: index for index, name in enumerate(result["hosts"])}
        record = list(packets.read(folder / "packets"))
    except (OSError, ValueError, KeyError) as exc:
        raise NoWitness(
            f"{folder} holds no run over emulated links that was kept with --out: {exc}."
        ) from exc
    flows: dict[tuple[int, int], list[Packet]] = defaultdict(list)
    for packet in record:
        if packet.payload_bytes and packet.fate == "delivered":
            flows[packet.source, packet.destination].append(packet)
    compared = []
    for job in result["outcome"]["jobs"]:
        if job["via"] != "peer" or not job["timeline"] or len(job["attempts"]) != 1:
            continue
        told = _told(folder, job)
        there, back = (hosts[job["by"]], hosts[job["provider"]]), (hosts[job["provider"]], hosts[job["by"]])
        seen = None if told is None else phases(told, flows[there], flows[back])
        if told is None or seen is None:
            continue
        moments = (told.offered_us, told.accepted_us, told.sent_us, told.arrived_us)
        for index, phase in enumerate(PHASES):
            compared.append(Compared(job["number"], phase, moments[index + 1] - moments[index], seen[index]))
    return compared


def phases(told: Told, there: list[Packet], back: list[Packet]) -> tuple[int, int, int] | None:
    """How long each phase was on the wire, us; None where its packets are not in the record.

    `there` and `back` are the packets with payload of each direction, in the order of their arrival.
    """
    first = bisect_left(there, (told.offered_us - EARLY_US) * 1000, key=lambda packet: packet.in_ns)
    last = bisect_left(back, (told.arrived_us + EARLY_US) * 1000, key=lambda packet: packet.out_ns) - 1
    if first == len(there) or last < 0:
        return None
    offer = there[first]
    answered = bisect_left(back, offer.out_ns, key=lambda packet: packet.in_ns)
    begins, left_bytes = last, told.file_bytes - back[last].payload_bytes
    while left_bytes > 0 and begins > answered:
        begins -= 1
        left_bytes -= back[begins].payload_bytes
    if answered > begins or left_bytes > 0:
        return None
    return (
        (back[answered].out_ns - offer.in_ns) // 1000,
        (back[begins].in_ns - back[answered].out_ns) // 1000,
        (back[last].out_ns - back[begins].in_ns) // 1000,
    )


def _told(folder: Path, job: dict[str, Any]) -> Told | None:
    spans = {span["span"]: span for span in job["timeline"]}
    if not {"plan", "offer", "transfer"} <= spans.keys():
        return None
    planned_us = next(
        (
            entry["t_us"]
            for entry in journals.entries(folder / "peers" / job["by"] / journals.FILE)
            if entry.get("event") == "planned" and entry.get("job") == job["job"]
        ),
        None,
    )
    if planned_us is None:
        return None
    zero_us = planned_us - spans["plan"]["start_us"] - spans["plan"]["us"]
    offer, transfer = spans["offer"], spans["transfer"]
    return Told(
        offered_us=zero_us + offer["start_us"],
        accepted_us=zero_us + offer["start_us"] + offer["us"],
        sent_us=zero_us + transfer["start_us"],
        arrived_us=zero_us + transfer["start_us"] + transfer["us"],
        file_bytes=_bytes_without_receipt(folder / f"job-{job['number']}.png"),
    )


def _bytes_without_receipt(path: Path) -> int:
    """As it travelled (PNG specification, third edition, section 5.3: length, type, data, CRC)."""
    data = path.read_bytes()
    start, size = 8, len(data)
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big") + 12
        if data[start + 4 : start + 8] == _RECEIPT_CHUNK:
            size -= length
        start += length
    return size


def table(compared: list[Compared]) -> str:
    """Each phase, and how many of them agree."""
    lines = ["job  phase        timeline         wire   differs"]
    for each in compared:
        verdict = "" if each.agrees else "  disagrees"
        lines.append(
            f"{each.job:3}  {each.phase:8} {each.told_us / 1000:9.1f} ms {each.seen_us / 1000:9.1f} ms "
            f"{(each.told_us - each.seen_us) / 1000:6.1f} ms{verdict}"
        )
    for phase in PHASES:
        of = [each for each in compared if each.phase == phase]
        good = sum(each.agrees for each in of)
        lines.append(
            f"{phase}: {good} of {len(of)} agree within {WITHIN_SHARE:.0%} or {WITHIN_US / 1000:g} ms"
        )
    return "\n".join(lines)
