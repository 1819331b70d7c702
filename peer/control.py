"""The daemon's local door: a Unix socket in a private folder, frames of [kind, map] both ways.  (See service.py.)"""

import hashlib
import os
import signal
import socket
import stat
import struct
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader

from .clock import now_us
from .config import PeerConfig
from .errors import CANCELLED, JOB_FAILED, LOCAL_SETUP, NOBODY, WRONG_USAGE, UserError

OnEvent = Callable[[str, dict[str, Any]], Any]

MAX_CONTROL_BYTES = 1 << 20  # a frame: a picture travels in pieces of its own
PIECE_BYTES = 512 * 1024
MAX_UNSENT = 2048  # events and pieces for a command that is stopped, or slow
MAX_UNSENT_BYTES = 256 << 20  # a few of the largest pictures
MAX_SOCKET_PATH_BYTES = 100  # sun_path is 104-108 bytes
PEERS_WITHIN_S = 10.0


def socket_path(home: Path) -> Path:
    """Where the daemon of `home` listens.  A home with a long name has its socket in the temporary folder."""
    path = home / "control" / "socket"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nearlight-{os.getuid()}-{name}" / "socket"


async def request(
    config: PeerConfig,
    kind: str,
    body: Mapping[str, Value],
    on_event: OnEvent,
    *,
    settings: Sequence[str] = (),
) -> None:
    """Asks the daemon of `config.home`, or, where none runs, a short-lived peer in this process; UserError.

    `settings`: the flags that a person gave for the latter; of a daemon they are told that it has its own.
    A caller that saves pictures says so in the body, "~saves": true; then `on_event` returns for each of them
    {job, picture, start_us, us}: when it was written to disk, `us` nil if it could not be.
    """
    body = {"~asked_us": now_us(), **body} if kind == "render" else dict(body)
    try:
        stream = await trio.open_unix_socket(str(socket_path(config.home)))
    except OSError:
        if kind == "cancel":
            raise UserError("No peer is running here, so there is no job to cancel.", NOBODY) from None
        if kind in ("jobs", "why"):
            on_event(kind, await trio.to_thread.run_sync(_from_ledger, config.home, kind, body))
        else:
            await _ask_own(config, kind, body, on_event)
        return
    if settings:
        words = f"The running peer is used, with its own settings: {', '.join(settings)} changed nothing."
        on_event("told", {"picture": None, "sentence": words})
    async with stream:
        await _ask(stream, kind, body, on_event)


async def serve(config: PeerConfig, on_event: OnEvent) -> None:
    """Runs the daemon until SIGINT or SIGTERM; UserError if it cannot start."""
    async with _running_node(config, on_event) as service:
        async with trio.open_nursery() as nursery:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                await nursery.start(_listen, config.home, service)
                on_event("ready", {"control": str(socket_path(config.home))})
                async for _ in signals:
                    break
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _running_node(config: PeerConfig, on_event: OnEvent) -> AsyncIterator[Any]:
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
            async with open_node(config, private_key, on_event) as node:
                yield Service(node)
    except* (AlreadyRunning, KeyFileError, BootEpochError, LedgerError) as group:
        raise UserError(str(_first(group)), LOCAL_SETUP) from None
    except* UserError as group:
        raise _first(group) from None


def _from_ledger(home: Path, kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the ledger alone can answer."""
    from . import history
    from .store.ledger import Ledger, LedgerError

    try:
        ledger = Ledger(home / "ledger.sqlite3")
    except LedgerError as exc:
        raise UserError(str(exc), LOCAL_SETUP) from exc
    try:
        if kind == "jobs":
            return {"jobs": history.jobs(ledger, body["limit"])}
        return {"report": history.why(ledger, body["job"])}
    finally:
        ledger.close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _ask_own(config: PeerConfig, kind: str, body: dict[str, Any], on_event: OnEvent) -> None:
    """A short-lived peer: it joins, waits until it knows someone, asks, and leaves."""
    silent: OnEvent = lambda _kind, _body: None  # noqa: E731
    asked_us: int = body.get("~asked_us", now_us())
    async with _running_node(config, silent) as service:
        started_us = now_us()
        if config.join and kind in ("render", "swarm"):
            await _wait_known(service._node)

        def emit(kind: str, fields: dict[str, Value]) -> None:
            saved = on_event(kind, fields)
            if saved is not None:
                service.on_saved(saved)

        if kind == "render":
            starting: list[Value] = ["start_peer", asked_us, started_us - asked_us]
            joining: list[Value] = ["join", started_us, now_us() - started_us]
            body = {**body, "~spans": [starting, joining]}
        await service.handle(kind, body, emit)


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


# both ends of the socket


async def _ask(stream: trio.SocketStream, kind: str, body: dict[str, Value], on_event: OnEvent) -> None:
    await stream.send_all(_pack(kind, body))
    reader = FrameReader(at_most_bytes=MAX_CONTROL_BYTES)
    pieces = bytearray()
    while data := await stream.receive_some(1 << 16):
        for value in reader.feed_untrusted(bytes(data)):
            event, fields = _split(value)
            if event == "error":
                raise UserError(fields["sentence"], fields["exit_code"])
            if event == "end":
                return
            if event == "piece":
                pieces += fields["data"]
                continue
            if "file" in fields:
                fields["file"], pieces = bytes(pieces), bytearray()
            saved = on_event(event, fields)
            if saved is not None:
                await stream.send_all(_pack("saved", saved))
    raise UserError("The running peer stopped before it answered.", LOCAL_SETUP)


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
                send(_pack("piece", {"data": file[start : start + PIECE_BYTES]}))
            body = body | {"file": b""}
        if kind == "progress" and outbox.statistics().current_buffer_used > 64:
            return  # the command is slow: it wants the latest, not all
        send(_pack(kind, body))

    def end(sentence: str, exit_code: int) -> None:
        send(_pack("error", {"sentence": sentence, "exit_code": exit_code}))

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
                    said, body = _split(value)
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
    while data := await stream.receive_some(1 << 16):
        for value in reader.feed_untrusted(bytes(data)):
            return _split(value)
    raise UserError("Nothing was asked.", CANCELLED)


def _split(value: Value) -> tuple[str, dict[str, Any]]:
    match value:
        case [str(kind), dict(body)]:
            return kind, body
    raise RemoteProtocolError("not a request")


def _pack(kind: str, body: dict[str, Value]) -> bytes:
    from protocol.wire.frames import pack

    return pack([kind, body])


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
