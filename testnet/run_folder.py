"""Where a run lives, and what is left of one that was killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import processes

PEERS = "peers"  # the swarm's own folder in it


class NotEmpty(Exception):
    """A run wants a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty: a run wants a folder of its own.")


def runs_folder() -> Path:
    """Where runs live that nobody named a folder for."""
    return Path(tempfile.gettempdir()) / f"nearlight-testnet-{os.getuid()}"


def remove_leftovers() -> list[Path]:
    """Ends and removes what runs that were killed have left in `runs_folder`; nothing of those that are alive."""
    removed = []
    folder = runs_folder()
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return []
    for left in sorted(folder.iterdir()):
        try:
            if not (left / processes.RECORD).exists():
                continue  # it is just being made
            processes.sweep(left)
            processes.sweep(left / PEERS)
        except processes.AlreadyUp:
            continue
        shutil.rmtree(left)
        removed.append(left)
    return removed


@contextmanager
def run_folder(out: Path | None) -> Iterator[Path]:
    """`out`, which keeps everything; or, without one, a folder that goes with the run.  NotEmpty, AlreadyUp."""
    folder = _made(out)
    try:
        yield folder
    finally:
        processes.forget(folder)
        if out is None:
            shutil.rmtree(folder)


def _made(out: Path | None) -> Path:
    """The folder of a run, with our mark in it."""
    if out is None:
        runs_folder().mkdir(mode=0o700, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=runs_folder()))
    else:
        folder = out.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        processes.sweep(folder)
        if any(folder.iterdir()):
            raise NotEmpty(folder)
    processes.record(folder, [])
    return folder
