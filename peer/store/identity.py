"""Who this peer is: its key file, the lock on its home, and the count of its starts."""

import fcntl
import os
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from protocol.wire.identity import KEY_BYTES, peer_id_of, public_key_of

from .disk import create_file, make_private_folder, replace_file

KEY_FILE = "identity.key"
LOCK_FILE = "lock"
EPOCH_FILE = "boot_epoch"
_KEY_FILE_BYTES = 2 * KEY_BYTES + 1  # the seed in lower-case hex, and a newline
_EPOCH_FILE_BYTES = 20  # as many digits as 2^64 has


class KeyFileError(Exception):
    """The identity key file FILE is not as it must be: what is wrong, and what would be right."""


class AlreadyRunning(Exception):
    """Another peer, process PID, uses the home HOME: stop it first, or give this one another with --home."""

    def __init__(self, home: Path, pid: int | None) -> None:
        who = "Another peer" if pid is None else f"Another peer, process {pid},"
        super().__init__(f"{who} uses the home {home}: stop it first, or give this one another with --home.")
        self.pid = pid


class BootEpochError(Exception):
    """The file FILE must hold the number of this peer's starts: write a number higher than any before into it."""


def load_or_create_identity(home: Path) -> bytes:
    """The 32-byte Ed25519 seed of the peer that lives in `home`, made at its first start; KeyFileError.

    Nothing that is already there is ever overwritten: who loses this key loses the peer's name.
    """
    path = home / KEY_FILE
    try:
        make_private_folder(home)
        if not os.path.lexists(path):
            try:
                create_file(path, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
            except FileExistsError:
                pass  # another process made it first: its key is ours
        return _read(path)
    except OSError as exc:
        raise KeyFileError(
            f"The identity key file {path} cannot be used: {exc.strerror}. "
            "It must be a file that this user may read, in a folder that this user may write."
        ) from exc


def peer_id(seed: bytes) -> str:
    """The libp2p peer id ("12D3KooW...") that goes with a seed."""
    return peer_id_of(public_key_of(seed))


def next_boot_epoch(home: Path) -> int:
    """The number of this start, on disk before it is returned: 1, 2, ...; BootEpochError.

    It orders the adverts of one key across restarts, so it never runs backwards.
    """
    path = home / EPOCH_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_EPOCH_FILE_BYTES + 2).removesuffix(b"\n")
    except FileNotFoundError:
        text = b"0"
    if not text.isdigit() or len(text) > _EPOCH_FILE_BYTES or int(text) + 1 >= 1 << 64:
        raise BootEpochError(
            f"The file {path} must hold the number of this peer's starts, in digits: "
            "write a number higher than any before into it."
        )
    epoch = int(text) + 1
    replace_file(path, f"{epoch}\n".encode())
    return epoch


class HomeLock:
    """While this is held no other peer lives in `home`; it goes with the process, however that ends."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        make_private_folder(self._home)
        descriptor = os.open(self._home / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 32, 0).strip()
            raise AlreadyRunning(self._home, int(text) if text.isdigit() else None) from None
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._descriptor, descriptor = descriptor, -1
        finally:
            if descriptor != -1:
                os.close(descriptor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The file stays: without it, one who waits on the old file and one who makes a new one would both hold "the" lock.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise KeyFileError(
                f"The identity key file {path} can be read or changed by other users (mode {mode:04o}); "
                f"it must be for its owner only: chmod 600 {path}"
            )
        text = file.read(_KEY_FILE_BYTES + 1)
    if len(text) == _KEY_FILE_BYTES and text.endswith(b"\n") and set(text[:-1]) <= set(b"0123456789abcdef"):
        return bytes.fromhex(text[:-1].decode())
    raise KeyFileError(
        f"The identity key file {path} does not hold a key: it has {status.st_size} bytes that are not "
        f"{2 * KEY_BYTES} lower-case hexadecimal digits and a newline. Put the file back from a copy, or move it away "
        "and this peer gets a new identity."
    )
