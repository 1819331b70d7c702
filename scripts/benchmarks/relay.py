"""A link of limited rate: forwards TCP to the port it is told, each way at RATE, behind the kernel's own buffers.

One line of JSON in, `{"port"}`, one out, `{"port"}`: connect there.  Ends with its input.
"""

import json
import sys
import threading

import trio

from .far import end_with_input

RATE_BYTES_PER_S = 25_000_000  # 200 Mbit/s: well below what the two ends can do
PIECE_BYTES = 16_384


async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    due_s = trio.current_time()
    async for data in source:
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            due_s = max(due_s, trio.current_time() - 0.001) + len(piece) / RATE_BYTES_PER_S
            await trio.sleep_until(due_s)
            await sink.send_all(piece)


async def serve(port: int) -> None:
    async def forward(near: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            nursery.start_soon(pump, far, near)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(json.dumps({"port": listener.socket.getsockname()[1]}), flush=True)
    await trio.serve_listeners(forward, [listener])


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    trio.run(serve, told["port"])
