"""`python -m tests.relayed_peer RELAY_PORT COMMAND ...`: the `peer` command; what it dials, it dials by the relay."""

import sys

import trio

from peer.cli import main

direct = trio.open_tcp_stream


async def by_relay(host: str, port: int) -> trio.SocketStream:
    stream = await direct("127.0.0.1", relay_port)
    await stream.send_all(port.to_bytes(2, "big"))
    return stream


if __name__ == "__main__":
    relay_port = int(sys.argv[1])
    trio.open_tcp_stream = by_relay
    main(sys.argv[2:])
