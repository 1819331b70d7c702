"""The daemon's local door, and a short-lived peer for a command that finds none.  (See door.py and service.py.)"""

import gc
import os
import signal
import socket
import stat
import struct
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader, pack

from .clock import now_us
from .config import PeerConfig
from .door import MAX_CONTROL_BYTES, READ_BYTES, OnEvent, socket_path, split_untrusted
from .errors import CANCELLED, JOB_FAILED, LOCAL_SETUP, NOBODY, WRONG_USAGE, UserError

PIECE_BYTES = 512 * 1024
MAX_UNSENT = 2048  # events and pieces for a command that is stopped, or slow
MAX_UNSENT_BYTES = 256 << 20  # a few of the largest pictures
PEERS_WITHIN_S = 10.0


async def ask_own(config: PeerConfig, kind: str, body: Mapping[str, Value], on_event: OnEvent) -> None:
    """A short-lived peer in this process: it joins, waits until it knows someone, answers, and leaves.  UserError."""
    silent: OnEvent = lambda _kind, _body: None  # noqa: E731
    asked_us = body.get("~asked_us")
    began_us = asked_us if isinstance(asked_us, int) else now_us()
    async with _running_node(config, silent, rejoin=False) as service:
        started_us = now_us()
        if config.join and kind in ("render", "quote", "swarm"):
            await _wait_known(service._node)

        def emit(kind: str, fields: dict[str, Value]) -> None:
            saved = on_event(kind, fields)
            if saved is not None:
                service.on_saved(saved)

        if kind == "render":
            starting: list[Value] = ["start_peer", began_us, started_us - began_us]
            joining: list[Value] = ["join", started_us, now_us() - started_us]
            body = {"~asked_us": began_us, **body, "~spans": [starting, joining]}
        await service.handle(kind, dict(body), emit)


async def serve(config: PeerConfig, on_event: OnEvent) -> None:
    """Runs the daemon until SIGINT or SIGTERM; UserError if it cannot start."""
    async with _running_node(config, on_event, rejoin=True) as service:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await nursery.start(_listen, config.home, service)
                on_event("ready", {"control": str(socket_path(config.home))})
                # What is loaded by now stays: to look through it for garbage would hold up everything, each time.
                gc.freeze()
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _running_node(config: PeerConfig, on_event: OnEvent, *, rejoin: bool) -> AsyncIterator[Any]:
    from .node import open_node
    from .service import Service
    from .store.identity import (
        AlreadyRunning,
        BootEpochError,
        HomeLock,
        KeyFileError,
        load_or_create_identity,
    )
    from .store.ledger import LedgerError

    try:
        with HomeLock(config.home):
            private_key = load_or_create_identity(config.home)
            async with open_node(config, private_key, on_event, rejoin=rejoin) as node:
                yield Service(node)
    except* (AlreadyRunning, KeyFileError, BootEpochError, LedgerError) as group:
        raise UserError(str(_first(group)), LOCAL_SETUP) from None
    except* UserError as group:
        raise _first(group) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _wait_known(node: Any) -> None:
    """Until a peer that renders is known with its distance, or the time for that is over."""
    with trio.move_on_after(PEERS_WITHIN_S):
        while True:
            candidates = node.directory.candidates(now_us(), own=False)
            connected = node.host.connected()
            measured = [each for each in candidates if each.rtt is not None]
            if measured and {each.peer for each in measured} >= connected:
                return
            await trio.sleep(0.05)
    if not node.host.connected():
        raise UserError("None of the peers named by --join could be reached.", NOBODY)


async def _listen(home: Path, service: Any, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    path = socket_path(home)
    _private(path.parent)
    path.unlink(missing_ok=True)  # the lock on the home is ours: whoever left it is gone
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(16)
        task_status.started()
        await trio.serve_listeners(lambda stream: _answer(stream, service), [trio.SocketListener(listener)])
    finally:
        path.unlink(missing_ok=True)


async def _answer(stream: trio.SocketStream, service: Any) -> None:
    """One request of the command.  When the command goes away, what it asked for is cancelled."""
    if not _same_user(stream.socket):
        await stream.aclose()
        return
    outbox, inbox = trio.open_memory_channel[bytes](2 * MAX_UNSENT)
    unsent_bytes = 0

    def send(data: bytes) -> None:
        nonlocal unsent_bytes
        unsent_bytes += len(data)
        outbox.send_nowait(data)

    def emit(kind: str, body: dict[str, Value]) -> None:
        if unsent_bytes > MAX_UNSENT_BYTES or outbox.statistics().current_buffer_used > MAX_UNSENT:
            raise UserError("The command that asked for this reads no more.", CANCELLED)
        file = body.get("file")
        if isinstance(file, bytes):
            for start in range(0, len(file), PIECE_BYTES):
                send(pack(["piece", {"data": file[start : start + PIECE_BYTES]}]))
            body = body | {"file": b""}
        if kind == "progress" and outbox.statistics().current_buffer_used > 64:
            return  # the command is slow: it wants the latest, not all
        send(pack([kind, body]))

    def end(sentence: str, exit_code: int) -> None:
        send(pack(["error", {"sentence": sentence, "exit_code": exit_code}]))

    async def work(nursery: trio.Nursery) -> None:
        try:
            kind, body = await _one(stream)
            nursery.start_soon(hang_up, nursery.cancel_scope)
            await service.handle(kind, body, emit)
            emit("end", {})
        except* UserError as group:
            error = _first(group)
            assert isinstance(error, UserError)
            end(error.sentence, error.exit_code)
        except* RemoteProtocolError as group:
            end(f"{_first(group)}.", WRONG_USAGE)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the command went away before it had asked
        except* Exception as group:  # noqa: BLE001  the outermost handler: one request must not end the peer
            error = _first(group)
            traceback.print_exception(error)
            words = f"The running peer made a mistake ({type(error).__name__}); its own output says where."
            end(words, JOB_FAILED)
        outbox.close()

    async def hang_up(scope: trio.CancelScope) -> None:
        reader = FrameReader(at_most_bytes=MAX_CONTROL_BYTES)
        try:
            while data := await stream.receive_some(1024):
                for value in reader.feed_untrusted(bytes(data)):
                    said, body = split_untrusted(value)
                    if said == "saved":
                        service.on_saved(body)
        except (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
            pass
        scope.cancel()

    try:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(work, nursery)
            async for data in inbox:
                await stream.send_all(data)
                unsent_bytes -= len(data)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the command went away


async def _one(stream: trio.SocketStream) -> tuple[str, dict[str, Any]]:
    reader = FrameReader(at_most_bytes=MAX_CONTROL_BYTES)
    while data := await stream.receive_some(READ_BYTES):
        for value in reader.feed_untrusted(bytes(data)):
            return split_untrusted(value)
    raise UserError("Nothing was asked.", CANCELLED)


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise UserError(
            f"The folder {folder} belongs to someone else; the control socket cannot be there.", LOCAL_SETUP
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def _same_user(connection: Any) -> bool:
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # the folder's mode is the guard
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())
