"""The far end of the transfer benchmark: a host that echoes small messages and takes files.  Ends with its input."""

import json
import os
import secrets
import sys
import threading
from typing import Any

import trio

from peer.host import HostConfig, open_host
from protocol.wire.frames import FrameReader, pack
from protocol.wire.task import MAX_TASK_MESSAGE_BYTES, Ack, Chunk, task_message_untrusted, to_value
from protocol.wire.transfer import Receiver

ECHO = "/nearlight-bench/echo"
BULK = "/nearlight-bench/bulk"
HEADER_BYTES = 8 + 32  # the file's length, big-endian, and its SHA-256


def silent(*_: object) -> None:
    return None


def fail(peer: str, protocol: str, error: BaseException) -> None:
    print(f"{protocol}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


async def echo(stream: Any) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def take(stream: Any) -> None:
    """One file, acknowledged as a requester acknowledges a result."""
    header = bytearray()
    while len(header) < HEADER_BYTES:
        header += await stream.receive_some(HEADER_BYTES - len(header))
    receiver = Receiver(int.from_bytes(header[:8], "big"), bytes(header[8:]))
    reader = FrameReader(at_most_bytes=MAX_TASK_MESSAGE_BYTES)
    while not receiver.complete:
        for value in reader.feed_untrusted(await stream.receive_some()):
            message = task_message_untrusted(value)
            assert isinstance(message, Chunk)
            receiver.on_chunk_untrusted(message.offset, message.data)
            if (offset := receiver.ack()) is not None:
                await stream.send_all(pack(to_value(Ack(offset))))
    receiver.finish_untrusted()


async def serve() -> None:
    async with open_host(
        secrets.token_bytes(32),
        HostConfig(listen=("/ip4/127.0.0.1/tcp/0",)),
        on_peer_connected=silent,
        on_peer_disconnected=silent,
        on_handler_error=fail,
    ) as host:
        host.set_handler(ECHO, echo)
        host.set_handler(BULK, take)
        print(json.dumps({"address": host.addresses[0]}), flush=True)
        await trio.sleep_forever()


def end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_input, daemon=True).start()
    trio.run(serve)
