"""Bulk: what it does to small messages beside it, what pacing costs, and how full a long path gets."""

import hashlib
import secrets
import statistics
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from peer.changed import Changed
from peer.clock import now_us
from peer.host import HostConfig, open_host
from protocol.wire.frames import FrameReader, pack
from protocol.wire.task import MAX_TASK_MESSAGE_BYTES, Ack, Chunk, task_message_untrusted, to_value
from protocol.wire.transfer import CHUNK_BYTES, Sender
from tests.test_transfer import Path, share_of

from .child import child
from .far import BULK, ECHO, fail, silent
from .figures import Figure, quantile
from .relay import RATE_BYTES_PER_S

FILE_BYTES = 64_000_000
SMALL_EVERY_S = 0.005  # more often, and they themselves are the load
TIMER_S = 0.001  # what a timer may be late by itself
MIN_MESSAGES = 300  # of each kind in each repetition: a p99 of fewer is their maximum
MAX_LATENCY_RATIO = 0.25
MIN_THROUGHPUT_RATIO = 0.8
LONG_PATH = Path(150_000, 12.5)  # us of round trip; bytes a us: 100 Mbit/s
MIN_LONG_PATH_SHARE = 0.8
_STAMP = struct.Struct(">Q")


@dataclass(frozen=True)
class Link:
    """What lies between the two hosts; without a round trip, their loopback itself."""

    name: str
    says: str
    one_way_us: int | None


_RATE = f"{RATE_BYTES_PER_S * 8 // 1_000_000} Mbit/s"
NEAR = Link("transfer", f"on a link of {_RATE}", 0)
LOOPBACK = Link("loopback", "on bare loopback", None)


class SmallMessages:
    """Sent at fixed times whatever becomes of the ones before, and echoed; times count from when each was due."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._sent = 0
        self._heard = Changed()
        self.enough = False
        self.took_us: list[int] = []

    async def send(self) -> None:
        due_s = trio.current_time()
        while not self.enough:
            late_us = int(max(0, trio.current_time() - due_s - TIMER_S) * 1e6)
            await self._stream.send_all(_STAMP.pack(now_us() - late_us))
            self._sent += 1
            due_s += SMALL_EVERY_S
            await trio.sleep_until(due_s)

    async def hear(self) -> None:
        data = bytearray()
        while piece := await self._stream.receive_some():
            data += piece
            while len(data) >= _STAMP.size:
                self.took_us.append(now_us() - _STAMP.unpack_from(data)[0])
                del data[: _STAMP.size]
            self._heard.notify()

    async def wait_one_heard(self) -> None:
        await self._heard.wait()

    async def wait_all_heard(self) -> None:
        while len(self.took_us) < self._sent:
            await self._heard.wait()


async def _send_file(stream: Any, data: bytes, digest: bytes, min_rtt_us: int | None) -> int:
    """Until the last byte is acknowledged, in us; as the provider does it, or without a window and a round trip."""
    paced = min_rtt_us is not None
    sender = Sender(len(data), min_rtt_us=min_rtt_us, now_us=now_us())
    acked, heard = 0, Changed()

    async def hear() -> None:
        nonlocal acked
        reader = FrameReader(at_most_bytes=MAX_TASK_MESSAGE_BYTES)
        while acked < len(data):
            for value in reader.feed_untrusted(await stream.receive_some()):
                message = task_message_untrusted(value)
                assert isinstance(message, Ack)
                acked = message.offset
                if paced:
                    sender.on_ack(acked, now_us())
                heard.notify()

    async def send(offset: int, size: int) -> None:
        await stream.send_all(pack(to_value(Chunk(offset, data[offset : offset + size]))))

    began_us = now_us()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        await stream.send_all(len(data).to_bytes(8, "big") + digest)
        if paced:
            while not sender.done:
                piece = sender.next_chunk(now_us())
                if piece is None:
                    await heard.wait()
                else:
                    await send(*piece)
        else:
            for offset in range(0, len(data), CHUNK_BYTES):
                await send(offset, min(CHUNK_BYTES, len(data) - offset))
    return now_us() - began_us


@dataclass(frozen=True)
class _Beside:
    """What small messages met, and what the transfers beside them took."""

    p99_us: float
    min_us: int
    file_us: float


async def _quiet(host: Any, peer: str) -> _Beside:
    """Nothing beside them."""

    async def wait(messages: SmallMessages) -> float:
        while len(messages.took_us) < MIN_MESSAGES:
            await messages.wait_one_heard()
        return 0.0

    return await _small_messages(host, peer, wait)


async def _beside(host: Any, peer: str, data: bytes, digest: bytes, min_rtt_us: int | None) -> _Beside:
    """Files one after another, until there were enough messages."""

    async def send_files(messages: SmallMessages) -> float:
        files_us = []
        while len(messages.took_us) < MIN_MESSAGES:
            async with await host.open_stream(peer, BULK) as bulk:
                files_us.append(await _send_file(bulk, data, digest, min_rtt_us))
        return statistics.mean(files_us)

    return await _small_messages(host, peer, send_files)


async def _small_messages(
    host: Any, peer: str, beside: Callable[[SmallMessages], Awaitable[float]]
) -> _Beside:
    async with await host.open_stream(peer, ECHO) as small:
        messages = SmallMessages(small)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(messages.hear)
            async with trio.open_nursery() as sending:
                sending.start_soon(messages.send)
                file_us = await beside(messages)
                messages.enough = True
            await messages.wait_all_heard()
            nursery.cancel_scope.cancel()
    return _Beside(quantile(messages.took_us, 0.99), min(messages.took_us), file_us)


@asynccontextmanager
async def _connected(link: Link) -> AsyncIterator[tuple[Any, str]]:
    """(host, peer id of the far end in its own process), with the link between them."""
    async with (
        child("scripts.benchmarks.far") as far,
        child("scripts.benchmarks.relay") as relay,
        open_host(
            secrets.token_bytes(32),
            HostConfig(listen=("/ip4/127.0.0.1/tcp/0",)),
            on_peer_connected=silent,
            on_peer_disconnected=silent,
            on_handler_error=fail,
        ) as host,
    ):
        address = (await far.read())["address"]
        port = address.split("/")[4]
        if link.one_way_us is not None:
            relayed = await relay.ask({"port": int(port), "one_way_us": link.one_way_us})
            address = address.replace(f"/tcp/{port}/", f"/tcp/{relayed['port']}/")
        yield host, await host.dial(address)


async def transfer(runs: int) -> list[Figure]:
    data = secrets.token_bytes(FILE_BYTES)
    return [figure for link in (NEAR, LOOPBACK) for figure in await _compare(runs, data, link)]


async def _compare(runs: int, data: bytes, link: Link) -> list[Figure]:
    """Quiet, unpaced and paced in turn."""
    digest = hashlib.sha256(data).digest()
    quiet, unpaced, paced = [], [], []
    async with _connected(link) as (host, peer):
        for _ in range(runs):
            quiet.append(await _quiet(host, peer))
            min_rtt_us = min(each.min_us for each in quiet)  # a peer knows it from its pings
            unpaced.append(await _beside(host, peer, data, digest, None))
            paced.append(await _beside(host, peer, data, digest, min_rtt_us))
    quiet_us, unpaced_us, paced_us = (
        statistics.median(each.p99_us for each in arm) for arm in (quiet, unpaced, paced)
    )
    latency = [with_.p99_us / without.p99_us for with_, without in zip(paced, unpaced, strict=True)]
    throughput = [without.file_us / with_.file_us for with_, without in zip(paced, unpaced, strict=True)]
    details = {
        "paced_p99_ms": paced_us / 1000,
        "unpaced_p99_ms": unpaced_us / 1000,
        "quiet_p99_ms": quiet_us / 1000,
        "min_rtt_ms": min_rtt_us / 1000,
        "paced_mb_per_s": FILE_BYTES / statistics.median(each.file_us for each in paced),
        "unpaced_mb_per_s": FILE_BYTES / statistics.median(each.file_us for each in unpaced),
    }
    latency_figure = Figure(
        f"{link.name}_latency",
        f"p99 of small messages beside 64 MB {link.says}, paced over unpaced",
        statistics.median(latency),
        "x",
        runs,
        at_most=MAX_LATENCY_RATIO,
        each=latency,
        details=details,
    )
    if link is LOOPBACK:  # two busy processes and no link: a quarter of it may be less than what is quiet
        added, added_unpaced = max(0, paced_us - quiet_us), unpaced_us - quiet_us
        latency_figure = Figure(
            "loopback_latency",
            f"what 64 MB adds to the p99 of small messages {link.says}, paced over unpaced",
            added / added_unpaced if added_unpaced > 0 else 0.0,
            "x",
            runs,
            at_most=MAX_LATENCY_RATIO,
            each=[
                max(0.0, with_.p99_us - quiet_us) / added_unpaced if added_unpaced > 0 else 0.0
                for with_ in paced
            ],
            details={"p99_over_unpaced": statistics.median(latency), **details},
        )
    return [
        latency_figure,
        Figure(
            f"{link.name}_throughput",
            f"64 MB beside small messages {link.says}, paced over unpaced",
            statistics.median(throughput),
            "x",
            runs,
            at_least=MIN_THROUGHPUT_RATIO,
            each=throughput,
            details=details,
        ),
    ]


async def virtual_transfer(runs: int) -> list[Figure]:
    return [
        Figure(
            "virtual_transfer",
            "64 MB over 150 ms at 100 Mbit/s, of the link's rate, in virtual time",
            share_of(LONG_PATH, FILE_BYTES),
            "share",
            1,
            at_least=MIN_LONG_PATH_SHARE,
        )
    ]
