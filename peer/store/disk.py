"""Small files that are either whole or not there, whatever moment the power fails."""

import os
import secrets
from pathlib import Path

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def make_private_folder(folder: Path) -> None:
    """Makes `folder` and its parents; those that it makes are for their owner only."""
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(mode=FOLDER_MODE, exist_ok=True)


def create_file(path: Path, data: bytes) -> None:
    """Makes the file `path` (mode 0600); FileExistsError, with nothing changed, if there is one."""
    whole = _write_beside(path, data)
    try:
        # A link, unlike a rename, never replaces a file that another process made in the meantime.
        os.link(whole, path)
    finally:
        whole.unlink()
    _sync_folder(path.parent)


def replace_file(path: Path, data: bytes) -> None:
    """The file `path` holds `data` (mode 0600), or, if this is cut short, what it held before."""
    whole = _write_beside(path, data)
    whole.replace(path)
    _sync_folder(path.parent)


def _write_beside(path: Path, data: bytes) -> Path:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    return beside


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
