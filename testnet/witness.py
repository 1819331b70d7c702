"""Compares what peers say about a picture's time with what the router saw: packets, whose times no peer controls.

Three phases can be seen from outside, although everything is encrypted: *offer*, from the first packet of OFFER to the
last of ACCEPT; *drawing*, from there to the first of RESULT; *transfer*, from there to the last of RECEIPT.  A packet
counts from when the router read it from its sender until it handed it over, and the timelines count likewise: from
when a peer's system was given a message to when the other's system received it.

Encryption does not hide sizes.  Messages are found by theirs: those of RESULT and RECEIPT follow from the timeline and
the picture.  Where packets of several places fit, the nearest in time to what is told are compared with it.
"""

import base64
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import MalformedMessage
from protocol.wire.canonical import Value, decode_untrusted
from protocol.wire.frames import pack
from protocol.wire.hello import LiveState
from protocol.wire.task import Accept, Chunk, ReceiptMessage, Result, TaskMessage, to_value

from . import journals, packets
from .packets import Flow, Segment

WITHIN_US = 3_000
WITHIN_SHARE = 0.02
PHASES = ("offer", "drawing", "transfer")

LEAST_OFFER_BYTES = 400  # key, signature, four ids, salt and the names of 25 fields take more
_AROUND_BYTES = 12 + 2 + 16  # yamux header, length and tag of a noise message
_CLOCK = 1 << 39  # a reading of a connection's clock, as most are (protocol/README.md section 6)
_WIDTHS_BYTES = 32  # what numbers may be wider or narrower than they are supposed to be
_OTHERS_BYTES = 1024  # pings, pongs and gossip between RESULT and RECEIPT
_FEWEST_BYTES, _MOST_BYTES = 8_192, 65_400  # of the file in one CHUNK (protocol/README.md section 9.4)
_FULL_BYTES = 1_400  # a packet that holds more payload has no room for much else
_LATEST_US = 1_000_000  # after the time told, no packet is taken for the last of a transfer
_ROUNDING_US = 1
_RECEIPT_CHUNK = b"tEXt"  # the requester puts the receipt into the picture, after it has come
_ADDED = frozenset({"leave"})  # by the requester, to the spans that came from the provider


class NoWitness(Exception):
    """The folder holds no run over emulated links that was kept."""


class NotSeen(Exception):
    """Why the packets of a picture cannot be compared with its timeline: a sentence."""


@dataclass(frozen=True)
class Compared:
    job: int
    phase: str
    told_us: int  # by the requester's timeline
    seen_us: int  # by the record of packets
    unsure_us: int  # it begins or ends with a moment of the provider's clock, known to that by the requester

    @property
    def agrees(self) -> bool:
        return abs(self.told_us - self.seen_us) <= max(WITHIN_US, WITHIN_SHARE * self.seen_us)


@dataclass(frozen=True)
class LeftOut:
    job: int
    why: str


@dataclass(frozen=True)
class Comparison:
    """Every phase of every job is in one of the two: `left_out` names jobs of which none could be compared."""

    phases: tuple[Compared, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def ok(self) -> bool:
        return bool(self.phases) and all(each.agrees for each in self.phases)


@dataclass(frozen=True)
class Told:
    """A timeline's three phases, as moments on CLOCK_MONOTONIC, us."""

    offered_us: int
    accepted_us: int
    sent_us: int
    arrived_us: int
    result_bytes: int  # RESULT, at least
    least_bytes: int  # from its first to the last of RECEIPT, in as few CHUNKs as can be
    most_bytes: int
    unsure_us: int  # half of the interval in which the offset between the two clocks lies


def compare(folder: Path) -> Comparison:
    """NoWitness, packets.BadRecord."""
    try:
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        hosts = {name: index for index, name in enumerate(result["hosts"])}
        flows = packets.flows(packets.read(folder / "packets"))
    except (OSError, ValueError, KeyError) as exc:
        raise NoWitness(
            f"{folder} holds no run over emulated links that was kept with --out: {exc}."
        ) from exc
    compared: list[Compared] = []
    left_out: list[LeftOut] = []
    for job in result["outcome"]["jobs"]:
        number = job["number"]
        try:
            told = told_of(folder, job)
            there, back = hosts[job["by"]], hosts[job["provider"]]
            seen = phases(told, flows.get((there, back), []), flows.get((back, there), []))
        except NotSeen as exc:
            left_out.append(LeftOut(number, str(exc)))
            continue
        moments = (told.offered_us, told.accepted_us, told.sent_us, told.arrived_us)
        for index, phase in enumerate(PHASES):
            unsure_us = 0 if phase == "offer" else told.unsure_us
            compared.append(
                Compared(number, phase, moments[index + 1] - moments[index], seen[index], unsure_us)
            )
    return Comparison(tuple(compared), tuple(left_out))


# on the wire


def phases(told: Told, there: Sequence[Flow], back: Sequence[Flow]) -> tuple[int, int, int]:
    """How long each phase was on the wire, us; NotSeen.  `there` is from the requester to the provider."""
    asked, offer = _offer(told, there)
    segments = [segment for segment in _answer_to(asked, offer, back) if segment.in_ns > offer.out_ns]
    accept = min(
        (segment for segment in segments if segment.size_bytes >= LEAST_ACCEPT_BYTES),
        key=lambda segment: abs(segment.out_ns - told.accepted_us * 1000),
        default=None,
    )
    if accept is None:
        raise NotSeen("no packet came back that could hold an answer to its offer")
    first, last = _transfer(told, [segment for segment in segments if segment.in_ns > accept.in_ns])
    return (
        (accept.out_ns - offer.in_ns) // 1000,
        (first.in_ns - accept.out_ns) // 1000,
        (last.out_ns - first.in_ns) // 1000,
    )


def _offer(told: Told, there: Sequence[Flow]) -> tuple[Flow, Segment]:
    found = [
        (segment.in_ns, flow, segment)
        for flow in there
        for segment in flow.segments
        if LEAST_OFFER_BYTES <= segment.size_bytes
        and (told.offered_us - _ROUNDING_US) * 1000 <= segment.in_ns
    ]
    if not found:
        raise NotSeen("no packet that could hold its offer left at the time told, or later")
    _, flow, segment = min(found, key=lambda each: each[0])
    return flow, segment


def _answer_to(asked: Flow, offer: Segment, back: Sequence[Flow]) -> Sequence[Segment]:
    """The other direction of the same connection: of those between the same ports, the last that began before."""
    ports = asked.destination_port, asked.source_port
    found = [
        flow.segments
        for flow in back
        if (flow.source_port, flow.destination_port) == ports and flow.segments[0].in_ns < offer.out_ns
    ]
    return found[-1] if found else ()


def _transfer(told: Told, segments: Sequence[Segment]) -> tuple[Segment, Segment]:
    """The first and the last of consecutive ones that hold as many bytes as were sent."""
    latest_ns = (told.arrived_us + _LATEST_US) * 1000
    for others_bytes in (0, _OTHERS_BYTES):
        found = []
        begins = [segment.begins for segment in segments]
        for last in segments:
            if last.out_ns > latest_ns:
                break
            earliest = bisect_left(begins, last.ends - told.most_bytes - others_bytes)
            for first in segments[earliest:]:
                if first.begins > last.ends - told.least_bytes:
                    break
                if first.size_bytes < min(told.result_bytes, _FULL_BYTES):
                    continue
                off_ns = abs(first.in_ns - told.sent_us * 1000) + abs(last.out_ns - told.arrived_us * 1000)
                found.append((off_ns, first, last))
        if found:
            _, first, last = min(found, key=lambda each: each[0])
            return first, last
    raise NotSeen(
        f"{told.least_bytes} to {told.most_bytes} bytes, as its result has, did not come in one piece"
    )


# as told


def told_of(folder: Path, job: dict[str, Any]) -> Told:
    """NotSeen where there is nothing to compare."""
    if job["via"] != "peer":
        raise NotSeen("the broker drew it, which keeps no timeline")
    if not job["timeline"]:
        raise NotSeen("no picture came of it")
    if job["by"] == job["provider"]:
        raise NotSeen("it was drawn where it was asked for")
    transfer = next((span for span in job["timeline"] if span["span"] == "transfer"), None)
    spans = {
        span["span"]: span for span in job["timeline"] if transfer and span["attempt"] == transfer["attempt"]
    }
    if transfer is None or "offer" not in spans:
        raise NotSeen("its timeline tells of no offer, or of no transfer")
    journal = {
        entry.get("event"): entry
        for entry in journals.entries(folder / "peers" / job["by"] / journals.FILE)
        if entry.get("job") == job["job"]
    }
    try:
        asked_us: int = journal["planned"]["asked_us"]
        lowest_us, highest_us = journal["received"]["offset_us"]
    except KeyError:
        raise NotSeen(f"the journal of {job['by']} does not say when it was asked for and received") from None
    offer = spans["offer"]
    sizes_bytes = _sent_bytes(folder / f"job-{job['number']}.png", job["timeline"], transfer)
    return Told(
        offered_us=asked_us + offer["start_us"],
        accepted_us=asked_us + offer["start_us"] + offer["us"],
        sent_us=asked_us + transfer["start_us"],
        arrived_us=asked_us + transfer["start_us"] + transfer["us"],
        result_bytes=sizes_bytes[0],
        least_bytes=sizes_bytes[1],
        most_bytes=sizes_bytes[2],
        unsure_us=(highest_us - lowest_us) // 2,
    )


def _sent_bytes(path: Path, timeline: list[dict[str, Any]], transfer: dict[str, Any]) -> tuple[int, int, int]:
    """RESULT on the wire, at least; RESULT, CHUNKs and RECEIPT, at least and at most."""
    file_bytes, receipt = _file_bytes_and_receipt(path)
    spans = [
        (span["span"], span["start_us"], span["us"])
        for span in timeline
        if span["attempt"] == transfer["attempt"]
        and span["observer"] != transfer["observer"]
        and span["span"] not in _ADDED
    ]
    began_us = min((start_us for _, start_us, _ in spans), default=0)
    told = tuple((name, start_us - began_us, us) for name, start_us, us in spans)
    result_bytes = _wire_bytes(Result("png", 256, 256, file_bytes, bytes(32), told, _CLOCK))
    sent_bytes = result_bytes + file_bytes + _wire_bytes(ReceiptMessage(receipt, _CLOCK, _CLOCK))
    around_bytes = _wire_bytes(Chunk(_FEWEST_BYTES, bytes(_FEWEST_BYTES))) - _FEWEST_BYTES
    fewest, most = -(-file_bytes // _MOST_BYTES), -(-file_bytes // _FEWEST_BYTES)
    return (
        result_bytes - _WIDTHS_BYTES,
        sent_bytes + fewest * around_bytes - _WIDTHS_BYTES,
        sent_bytes + most * around_bytes + _WIDTHS_BYTES,
    )


def _wire_bytes(message: TaskMessage) -> int:
    return len(pack(to_value(message))) + _AROUND_BYTES


LEAST_ACCEPT_BYTES = _wire_bytes(Accept(0, 0, None, LiveState(0, 0, 0, None, ()), 0, 0))


def _file_bytes_and_receipt(path: Path) -> tuple[int, bytes]:
    """Of the file as it travelled, and of its receipt, which the requester put into it after it had come; NotSeen.

    (PNG specification, third edition, section 5.3: length, type, data, CRC.)
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise NotSeen(f"{path.name} cannot be read: {exc.strerror}") from exc
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] == _RECEIPT_CHUNK:
            _, _, text = data[start + 8 : start + 8 + length].partition(b"\0")
            return len(data) - length - 12, _receipt(base64.b64decode(text), path)
        start += length + 12
    raise NotSeen(f"{path.name} holds no receipt")


def _receipt(bundle: bytes, path: Path) -> bytes:
    try:
        shown: Value = decode_untrusted(bundle)
    except MalformedMessage:
        shown = None
    match shown:
        case {"receipt": bytes(receipt)}:
            return receipt
    raise NotSeen(f"the receipt in {path.name} cannot be read")


# for people


def table(found: Comparison) -> str:
    """Each phase, how many of them agree, and what could not be compared."""
    lines = ["job  phase        timeline         wire   differs"]
    for each in found.phases:
        verdict = "" if each.agrees else "  disagrees"
        if not each.agrees and abs(each.told_us - each.seen_us) <= each.unsure_us:
            verdict += f"; the provider's clock is known to {each.unsure_us / 1000:.1f} ms"
        lines.append(
            f"{each.job:3}  {each.phase:8} {each.told_us / 1000:9.1f} ms {each.seen_us / 1000:9.1f} ms "
            f"{(each.told_us - each.seen_us) / 1000:6.1f} ms{verdict}"
        )
    lines += [f"{each.job:3}  not compared: {each.why}" for each in found.left_out]
    for phase in PHASES:
        of = [each for each in found.phases if each.phase == phase]
        good = sum(each.agrees for each in of)
        lines.append(
            f"{phase}: {good} of {len(of)} agree within {WITHIN_SHARE:.0%} or {WITHIN_US / 1000:g} ms"
        )
    return "\n".join(lines)
