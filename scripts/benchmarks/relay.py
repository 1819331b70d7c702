"""A link of limited rate and some length: forwards TCP to the port it is told, behind the kernel's own buffers.

One line of JSON in, `{"port", "one_way_us"}`, one out, `{"port"}`: connect there.  Ends with its input.
"""

import json
import math
import sys
import threading

import trio

from .far import end_with_input

RATE_BYTES_PER_S = 25_000_000  # 200 Mbit/s: well below what the two ends can do
PIECE_BYTES = 16_384


async def pump(source: trio.SocketStream, sink: trio.SocketStream, one_way_us: int) -> None:
    """Bytes leave at the rate, one piece after another, and arrive `one_way_us` later: so much is on its way."""

    async def arrive() -> None:
        async for arrives_s, piece in on_the_way:
            await trio.sleep_until(arrives_s)
            await sink.send_all(piece)

    leave, on_the_way = trio.open_memory_channel[tuple[float, bytes]](math.inf)
    left_s = trio.current_time()
    async with leave, trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        async for data in source:
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                # A timer is late by up to a millisecond, which may be made up for.
                left_s = max(left_s, trio.current_time() - 0.001) + len(piece) / RATE_BYTES_PER_S
                await trio.sleep_until(left_s)
                leave.send_nowait((left_s + one_way_us / 1e6, bytes(piece)))


async def serve(port: int, one_way_us: int) -> None:
    async def forward(near: trio.SocketStream) -> None:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port) as far, trio.open_nursery() as nursery:
                nursery.start_soon(pump, near, far, one_way_us)
                nursery.start_soon(pump, far, near, one_way_us)
        except* trio.BrokenResourceError:
            pass  # one of the two hosts has gone, and so has this connection

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(json.dumps({"port": listener.socket.getsockname()[1]}), flush=True)
    await trio.serve_listeners(forward, [listener])


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    trio.run(serve, told["port"], told["one_way_us"])
