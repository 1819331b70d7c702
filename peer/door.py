"""The command's side of a running peer's local door: plain blocking reads, so that a command starts in no time.

Frames of [kind, map] both ways over a Unix socket in a private folder; control.py is the other side.
"""

import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.wire.canonical import Value
from protocol.wire.frames import FrameReader, pack

from .errors import LOCAL_SETUP, UserError

OnEvent = Callable[[str, dict[str, Any]], Any]

MAX_CONTROL_BYTES = 1 << 20  # a frame: a picture travels in pieces of its own
MAX_SOCKET_PATH_BYTES = 100  # sun_path is 104-108 bytes
READ_BYTES = 1 << 16


def socket_path(home: Path) -> Path:
    """Where the daemon of `home` listens.  A home with a long name has its socket in the temporary folder."""
    path = home / "control" / "socket"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nearlight-{os.getuid()}-{name}" / "socket"


def knock(home: Path) -> socket.socket | None:
    """A connection to the daemon of `home`; None where none runs."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(socket_path(home)))
    except OSError:
        connection.close()
        return None
    return connection


def ask(connection: socket.socket, kind: str, body: Mapping[str, Value], on_event: OnEvent) -> None:
    """One request; returns after its last event.  UserError.

    A caller that saves pictures says so in the body, "~saves": true; then `on_event` returns for each of them
    {job, picture, start_us, us}: when it was written to disk, `us` nil if it could not be.  Closing the connection
    before the end cancels what was asked for.
    """
    connection.sendall(pack([kind, dict(body)]))
    reader = FrameReader(at_most_bytes=MAX_CONTROL_BYTES)
    pieces = bytearray()
    while data := _receive(connection):
        for value in reader.feed_untrusted(data):
            event, fields = split_untrusted(value)
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
                connection.sendall(pack(["saved", saved]))
    raise UserError("The running peer stopped before it answered.", LOCAL_SETUP)


def split_untrusted(value: Value) -> tuple[str, dict[str, Any]]:
    match value:
        case [str(kind), dict(body)]:
            return kind, body
    raise RemoteProtocolError("not a request")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(READ_BYTES)
    except ConnectionResetError:
        return b""
