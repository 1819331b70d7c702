"""Bulk: what it does to small messages beside it, what pacing costs, and how full a long path gets."""

import hashlib
import secrets
import statistics
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
QUIET_S = 1.0
MAX_LATENCY_RATIO = 0.25
MIN_THROUGHPUT_RATIO = 0.8
LONG_PATH = Path(150_000, 12.5)  # us of round trip; bytes a us: 100 Mbit/s
MIN_LONG_PATH_SHARE = 0.8
_STAMP = struct.Struct(">Q")


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
            late_us = int((trio.current_time() - due_s) * 1e6)
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

    async def wait_all_heard(self) -> None:
        while len(self.took_us) < self._sent:
            await self._heard.wait()


async def _send_file(stream: Any, data: bytes, digest: bytes, *, paced: bool) -> int:
    """Until the last byte is acknowledged, in us; as the provider does it, or without a window."""
    sender = Sender(len(data), now_us=now_us())
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


async def _beside(host: Any, peer: str, data: bytes | None, digest: bytes, paced: bool) -> tuple[float, int]:
    """(p99 of small messages in us, us of the transfer); without `data`, a quiet moment."""
    took_us = 0
    async with await host.open_stream(peer, ECHO) as small:
        messages = SmallMessages(small)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(messages.hear)
            async with trio.open_nursery() as beside:
                beside.start_soon(messages.send)
                if data is None:
                    await trio.sleep(QUIET_S)
                else:
                    async with await host.open_stream(peer, BULK) as bulk:
                        took_us = await _send_file(bulk, data, digest, paced=paced)
                messages.enough = True
            await messages.wait_all_heard()
            nursery.cancel_scope.cancel()
    return quantile(messages.took_us, 0.99), took_us


@asynccontextmanager
async def _connected(limited: bool) -> AsyncIterator[tuple[Any, str]]:
    """(host, peer id of the far end in its own process), over loopback or over a link of limited rate."""
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
        if limited:
            address = address.replace(
                f"/tcp/{port}/", f"/tcp/{(await relay.ask({'port': int(port)}))['port']}/"
            )
        yield host, await host.dial(address)


async def transfer(runs: int) -> list[Figure]:
    data = secrets.token_bytes(FILE_BYTES)
    limited = f"on a link of {RATE_BYTES_PER_S * 8 // 1_000_000} Mbit/s"
    return [
        *await _compare(runs, data, "transfer", limited, limited=True),
        *await _compare(runs, data, "loopback", "on bare loopback", limited=False),
    ]


async def _compare(runs: int, data: bytes, name: str, where: str, *, limited: bool) -> list[Figure]:
    """Paced and unpaced in turn."""
    digest = hashlib.sha256(data).digest()
    p99_us: dict[bool, list[float]] = {True: [], False: []}
    took_us: dict[bool, list[int]] = {True: [], False: []}
    async with _connected(limited) as (host, peer):
        quiet_us, _ = await _beside(host, peer, None, b"", paced=False)
        for _ in range(runs):
            for paced in (False, True):
                p99, us = await _beside(host, peer, data, digest, paced)
                p99_us[paced].append(p99)
                took_us[paced].append(us)
    latency = [paced / unpaced for paced, unpaced in zip(p99_us[True], p99_us[False], strict=True)]
    throughput = [unpaced / paced for paced, unpaced in zip(took_us[True], took_us[False], strict=True)]
    details = {
        "paced_p99_ms": statistics.median(p99_us[True]) / 1000,
        "unpaced_p99_ms": statistics.median(p99_us[False]) / 1000,
        "quiet_p99_ms": quiet_us / 1000,
        "paced_mb_per_s": FILE_BYTES / statistics.median(took_us[True]),
        "unpaced_mb_per_s": FILE_BYTES / statistics.median(took_us[False]),
    }
    return [
        Figure(
            f"{name}_latency",
            f"p99 of small messages beside 64 MB {where}, paced over unpaced",
            statistics.median(latency),
            "x",
            runs,
            at_most=MAX_LATENCY_RATIO,
            details={"each": latency, **details},
        ),
        Figure(
            f"{name}_throughput",
            f"64 MB beside small messages {where}, paced over unpaced",
            statistics.median(throughput),
            "x",
            runs,
            at_least=MIN_THROUGHPUT_RATIO,
            details={"each": throughput, **details},
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
