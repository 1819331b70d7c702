"""Packets as the router sees them, and the record of them that no peer controls.

The record is a header line of JSON, then `ENTRY` for each packet, in the order in which their fates were known.  Both
times are CLOCK_MONOTONIC, in nanoseconds: when the router read the packet from its sender, and when it handed it to
its receiver (0 where it never did).
"""

import json
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .link import Fate

ENTRY = struct.Struct("<QQIIIHHHHBBH")
FATES: tuple[Fate, ...] = ("delivered", "lost", "queue full", "cut", "no host")
FORMAT = "nearlight packets 1"
FLUSH_BYTES = 1 << 16
MAX_HEADER_BYTES = 1 << 20

SYN = 2
_TCP = 6
_SEQUENCE = 1 << 32
_NOTHING = 0, 0, 0, 0, 0, 0
_PORTS_SEQ_ACK = struct.Struct(">HHII")


@dataclass(frozen=True)
class Packet:
    """One entry.  `payload_bytes` is the TCP payload; ports, seq and ack are 0 for what is not TCP."""

    in_ns: int
    out_ns: int
    wire_bytes: int
    seq: int
    ack: int
    source: int
    destination: int
    source_port: int
    destination_port: int
    flags: int  # of TCP: FIN 1, SYN 2, RST 4, PSH 8, ACK 16
    fate: Fate
    payload_bytes: int


def header_fields(ip: bytes) -> tuple[int, int, int, int, int, int]:
    """Source port, destination port, seq, ack, flags, payload bytes of an IPv4 packet; zeros if it is not TCP."""
    start = (ip[0] & 15) * 4
    if ip[9] != _TCP or len(ip) < start + 20:
        return _NOTHING
    source, destination, seq, ack = _PORTS_SEQ_ACK.unpack_from(ip, start)
    payload = len(ip) - start - (ip[start + 12] >> 4) * 4
    return source, destination, seq, ack, ip[start + 13], payload


class Recorder:
    """Appends to one file; `flush` after `FLUSH_BYTES`, and whenever the router is idle."""

    def __init__(self, path: Path, hosts: list[str]) -> None:
        self._file = path.open("xb", buffering=0)
        self._file.write(
            json.dumps({"format": FORMAT, "entry_bytes": ENTRY.size, "hosts": hosts}).encode() + b"\n"
        )
        self._waiting: list[bytes] = []
        self._fates = {fate: index for index, fate in enumerate(FATES)}

    def write(self, flight: Any, out_ns: int) -> None:
        source_port, destination_port, seq, ack, flags, payload = header_fields(flight.packet)
        self._waiting.append(
            ENTRY.pack(
                flight.in_ns,
                out_ns,
                flight.size_bytes,
                seq,
                ack,
                flight.source,
                flight.destination & 0xFFFF,
                source_port,
                destination_port,
                flags,
                self._fates[flight.fate],
                payload,
            )
        )
        if len(self._waiting) * ENTRY.size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._file.write(b"".join(self._waiting))
            self._waiting.clear()

    def close(self) -> None:
        self.flush()
        self._file.close()


class BadRecord(Exception):
    """The file is no record of packets that this program wrote."""


def read_hosts(path: Path) -> list[str]:
    """The addresses of the hosts 0, 1, ...; BadRecord."""
    with path.open("rb") as file:
        return _header(file, path)


def read(path: Path) -> Iterator[Packet]:
    """Every whole entry: a record whose router was killed may end inside one; BadRecord."""
    with path.open("rb") as file:
        _header(file, path)
        while len(block := file.read(ENTRY.size * 4096)) >= ENTRY.size:
            for entry in ENTRY.iter_unpack(block[: len(block) // ENTRY.size * ENTRY.size]):
                fate = entry[10]
                if fate >= len(FATES):
                    raise BadRecord(f"{path} holds an entry with the unknown fate {fate}.")
                yield Packet(*(*entry[:10], FATES[fate], entry[11]))


@dataclass(frozen=True)
class Segment:
    """Bytes of a flow as they were first sent.  Positions count from the flow's first byte in the record."""

    begins: int
    ends: int
    in_ns: int
    out_ns: int  # since then its receiver had it, and everything before it

    @property
    def size_bytes(self) -> int:
        return self.ends - self.begins


@dataclass(frozen=True)
class Flow:
    """One direction of one TCP connection: every byte once, in order, until the first that never arrived."""

    source_port: int
    destination_port: int
    segments: tuple[Segment, ...]


def flows(record: Iterable[Packet]) -> dict[tuple[int, int], list[Flow]]:
    """By (source, destination), in the order of their first packets."""
    packets: dict[tuple[int, int, int, int], list[list[Packet]]] = defaultdict(list)
    for packet in sorted(record, key=lambda packet: packet.in_ns):
        ends = packet.source, packet.destination, packet.source_port, packet.destination_port
        if packet.flags & SYN or (packet.payload_bytes and not packets[ends]):
            packets[ends].append([])
        if packet.payload_bytes:
            packets[ends][-1].append(packet)
    found: dict[tuple[int, int], list[Flow]] = defaultdict(list)
    for (source, destination, source_port, destination_port), connections in packets.items():
        for each in connections:
            if segments := _segments(each):
                found[source, destination].append(Flow(source_port, destination_port, segments))
    return found


def _segments(packets: list[Packet]) -> tuple[Segment, ...]:
    """Of packets with payload, in the order in which they were sent."""
    new: list[tuple[int, int, Packet]] = []
    again: list[tuple[int, int, int]] = []  # what was sent again and arrived: from, to, when
    highest = 0
    for packet in packets:
        begins = (packet.seq - packets[0].seq) % _SEQUENCE
        ends = begins + packet.payload_bytes
        if highest < ends < _SEQUENCE // 2:
            new.append((highest, ends, packet))
            highest = ends
        elif packet.fate == "delivered":
            again.append((begins, ends, packet.out_ns))
    segments: list[Segment] = []
    had_ns = 0
    for begins, ends, packet in new:
        arrivals = [at_ns for start, end, at_ns in again if start < ends <= end]
        if packet.fate == "delivered":
            arrivals.append(packet.out_ns)
        if not arrivals:
            break
        had_ns = max(had_ns, min(arrivals))
        segments.append(Segment(begins, ends, packet.in_ns, had_ns))
    return tuple(segments)


def _header(file: IO[bytes], path: Path) -> list[str]:
    line = file.readline(MAX_HEADER_BYTES)
    try:
        header = json.loads(line)
        if header["format"] != FORMAT or header["entry_bytes"] != ENTRY.size:
            raise BadRecord(f"{path} is not in the format {FORMAT!r}.")
        return [str(host) for host in header["hosts"]]
    except (ValueError, KeyError, TypeError):
        raise BadRecord(f"{path} is no record of packets.") from None
