"""The network between peers on loopback that tests/relayed_peer.py started: of limited rate, and it can fail."""

import trio

PIECE_BYTES = 8_192


class Relay:
    """While `up` is False nothing passes: connections break, and new ones are not made."""

    def __init__(self, bytes_per_s: int) -> None:
        self.up = True
        self.port = 0
        self.passed_bytes: dict[int, int] = {}  # from whoever listens on a port to those who dialled it
        self._bytes_per_s = bytes_per_s
        self._streams: set[trio.SocketStream] = set()
        self._waiting = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._forward, [listener])

    async def wait_passed(self, port: int, count_bytes: int) -> None:
        """Until so many have come from `port` since the beginning."""
        while self.passed_bytes.get(port, 0) < count_bytes:
            await self._waiting.park()

    def fail(self) -> None:
        self.up = False
        for stream in self._streams:
            stream.socket.close()  # at once, with what is under way

    async def _forward(self, near: trio.SocketStream) -> None:
        if not self.up:
            await near.aclose()
            return
        self._streams.add(near)
        far = None
        try:
            port = int.from_bytes(await near.receive_some(2), "big")
            far = await trio.open_tcp_stream("127.0.0.1", port)
            self._streams.add(far)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, near, far, None)
                await self._pump(far, near, port)
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either end, or fail(): the other end learns of it by the close
        finally:
            for stream in filter(None, (near, far)):
                self._streams.discard(stream)
                await trio.aclose_forcefully(stream)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, port: int | None) -> None:
        due_s = trio.current_time()
        while data := await source.receive_some(PIECE_BYTES):
            due_s = max(due_s, trio.current_time()) + len(data) / self._bytes_per_s
            await trio.sleep_until(due_s)
            await sink.send_all(data)
            if port is not None:
                self.passed_bytes[port] = self.passed_bytes.get(port, 0) + len(data)
                self._waiting.unpark_all()
