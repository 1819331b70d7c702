"""A central broker to compare with: one queue, workers that are told what to draw, the same renderer, the same links.

As good as a small one can be: it knows at once which worker is idle, gives the oldest job to the one that was idle
longest, and keeps its connections open; nothing is encrypted, signed or checked.  It knows nothing of distances.  A
picture returns *direct*, over a connection that the worker opened while it drew, or is *relayed* through the broker.

`python -m testnet.broker serve|work|ask ...`; frames of canonical values (protocol README sections 3 and 4) over TCP.
"""

import argparse
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader, pack
from protocol.wire.statement import Statement

PORT = 4100
RETURN_PORT = 4101
MODEL_FOLDER = Path(__file__).resolve().parents[1] / "peer" / "reference_model"
MODEL_ID = hashlib.sha256(b"the reference model").digest()  # a renderer takes any name for what it has loaded
GUIDANCE_MILLIONTHS, SAMPLER, PRECISION = 3_000_000, "ddim", "fp32"  # peer/reference_model/README.md
MAX_FRAME_BYTES = 64 << 20
LOAD_WITHIN_S = 120.0
READY = "ready"
RETURNS = ("direct", "relayed")
_RECEIVE_BYTES = 1 << 16
_DIAL_EVERY_S = 0.2


class Talk:
    """Whole messages, [kind, body], over one stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frames = FrameReader(at_most_bytes=MAX_FRAME_BYTES)
        self._heard: deque[tuple[str, dict[str, Any]]] = deque()
        self._sending = trio.Lock()

    async def send(self, kind: str, body: dict[str, Value]) -> None:
        async with self._sending:
            await self._stream.send_all(pack([kind, body]))

    async def receive(self) -> tuple[str, dict[str, Any]] | None:
        """None at the end of the stream."""
        while not self._heard:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return None
            for message in self._frames.feed_untrusted(data):
                assert isinstance(message, list)
                kind, body = message
                assert isinstance(kind, str)
                assert isinstance(body, dict)
                self._heard.append((kind, body))
        return self._heard.popleft()


class Queue:
    """Jobs that wait, workers that wait: pure."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Talk, dict[str, Any]]] = deque()
        self._idle: deque[Talk] = deque()

    def on_job(self, client: Talk, job: dict[str, Any]) -> None:
        self._jobs.append((client, job))

    def on_idle(self, worker: Talk) -> None:
        self._idle.append(worker)

    def on_gone(self, talk: Talk) -> None:
        with suppress(ValueError):
            self._idle.remove(talk)
        self._jobs = deque(each for each in self._jobs if each[0] is not talk)

    def next(self) -> tuple[Talk, Talk, dict[str, Any]] | None:
        """Worker, client, job."""
        if not self._jobs or not self._idle:
            return None
        client, job = self._jobs.popleft()
        return self._idle.popleft(), client, job


async def serve(address: str) -> None:
    queue = Queue()
    clients: dict[bytes, Talk] = {}

    async def dispatch() -> None:
        while (given := queue.next()) is not None:
            worker, client, job = given
            clients[job["job"]] = client
            await worker.send("draw", job)

    async def handle(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = Talk(stream)
        try:
            while (message := await talk.receive()) is not None:
                match message:
                    case ["job", job]:
                        queue.on_job(talk, job)
                    case ["idle", _]:
                        queue.on_idle(talk)
                    case ["done", body]:
                        client = clients.pop(body["job"])
                        if body["file"] is not None:  # relayed: received whole, then sent
                            await client.send("picture", body)
                await dispatch()
        except trio.BrokenResourceError:
            pass  # its end says the same as an orderly one
        finally:
            queue.on_gone(talk)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, handle, PORT, host=address))
        print(READY, flush=True)


class Renderer:
    """`python -m peer.renderer`, with its weights resident.  The environment says whether it is paced."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    @classmethod
    async def start(cls) -> "Renderer":
        ours, theirs = socket.socketpair()
        with theirs:
            await trio.lowlevel.open_process(  # it ends with its socket
                [sys.executable, "-m", "peer.renderer", "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        ours.setblocking(False)
        renderer = cls(Talk(trio.SocketStream(trio.socket.from_stdlib_socket(ours))))
        with trio.fail_after(LOAD_WITHIN_S):
            folder: dict[str, Value] = {
                "folder": str(MODEL_FOLDER),
                "model": MODEL_ID,
                "device": "cpu",
                "variant": "",
            }
            await renderer._talk.send("load", folder)
            await renderer._until("loaded")
            await renderer.draw(statement("a red circle on white", steps=1, size_px=64, seed=0))
        return renderer

    async def draw(self, asked: bytes) -> bytes:
        body: dict[str, Value] = {"model": MODEL_ID, "statement": asked, "adapters": [], "preview": False}
        await self._talk.send("render", {**body, "task": secrets.token_bytes(16)})
        file = (await self._until("done"))["file"]
        assert isinstance(file, bytes)
        return file

    async def _until(self, wanted: str) -> dict[str, Any]:
        while (message := await self._talk.receive()) is not None:
            kind, body = message
            if kind == wanted:
                return body
            if kind in ("failed", "load_failed"):
                raise RuntimeError(body["sentence"])
        raise RuntimeError("the renderer process ended")


def statement(prompt: str, *, steps: int, size_px: int, seed: int) -> bytes:
    return Statement(
        model=MODEL_ID,
        prompt=prompt,
        width=size_px,
        height=size_px,
        steps=steps,
        guidance_millionths=GUIDANCE_MILLIONTHS,
        sampler=SAMPLER,
        seed=seed,
        salt=secrets.token_bytes(16),
        precision=PRECISION,
    ).to_bytes()


async def work(broker: str, name: str) -> None:
    renderer = await Renderer.start()
    talk = await _dial(broker, PORT)
    await talk.send("idle", {})
    print(READY, flush=True)
    while (message := await talk.receive()) is not None:
        _, job = message
        answer: dict[str, Value] = {"job": job["job"], "worker": name}
        if job["returns"] == "direct":
            client: list[Talk] = []

            async def dial(address: str = job["address"], into: list[Talk] = client) -> None:
                into.append(await _dial(address, RETURN_PORT))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dial)
                file = await renderer.draw(job["statement"])
            await client[0].send("picture", {**answer, "file": file})
            await talk.send("done", {**answer, "file": None})
        else:
            file = await renderer.draw(job["statement"])
            await talk.send("done", {**answer, "file": file})
        await talk.send("idle", {})


async def ask(options: argparse.Namespace) -> None:
    """Prints {"wall_us", "worker"}: from the asking until the picture was on disk.  The connection was there before."""
    broker = await _dial(options.broker, PORT)
    asked = statement(options.prompt, steps=options.steps, size_px=options.size, seed=options.seed)
    job = secrets.token_bytes(16)
    pictures, arrived = trio.open_memory_channel[dict[str, Any]](1)

    async def hear(stream: trio.SocketStream) -> None:
        message = await Talk(stream).receive()
        if message is not None:
            await pictures.send(message[1])

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, hear, RETURN_PORT, host=options.address))
        asked_ns = time.monotonic_ns()
        body: dict[str, Value] = {"job": job, "statement": asked, "returns": options.returns}
        await broker.send("job", {**body, "address": options.address})
        if options.returns == "relayed":
            message = await broker.receive()
            if message is None:
                sys.exit("The broker is gone.")
            picture = message[1]
        else:
            picture = await arrived.receive()
        await trio.Path(options.output).write_bytes(picture["file"])
        wall_us = (time.monotonic_ns() - asked_ns) // 1000
        print(json.dumps({"wall_us": wall_us, "worker": picture["worker"]}))
        nursery.cancel_scope.cancel()


async def _dial(address: str, port: int) -> Talk:
    while True:
        try:
            stream = await trio.open_tcp_stream(address, port)
        except OSError:
            await trio.sleep(_DIAL_EVERY_S)
            continue
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Talk(stream)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testnet.broker", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    serving = roles.add_parser("serve")
    serving.add_argument("--address", required=True)
    working = roles.add_parser("work")
    working.add_argument("--broker", required=True)
    working.add_argument("--name", required=True)
    asking = roles.add_parser("ask")
    for flag in ("--broker", "--address", "--prompt", "--output"):
        asking.add_argument(flag, required=True)
    for flag in ("--steps", "--size", "--seed"):
        asking.add_argument(flag, type=int, required=True)
    asking.add_argument("--returns", choices=RETURNS, required=True)
    options = parser.parse_args()
    match options.role:
        case "serve":
            trio.run(serve, options.address)
        case "work":
            trio.run(work, options.broker, options.name)
        case "ask":
            trio.run(ask, options)


if __name__ == "__main__":
    main()
