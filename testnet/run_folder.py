"""Where a run lives, and what is left of one that was killed."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from . import processes

PEERS = "peers"  # the swarm's own folder in it


class BadFolder(Exception):
    """What a run was told to keep everything in cannot be its folder: why."""


def runs_folder() -> Path:
    """Where testnets live that nobody named a folder for."""
    return Path(tempfile.gettempdir()) / f"nearlight-testnet-{os.getuid()}"


def temporary_folder() -> Path:
    """A new one in `runs_folder`, with our mark in it."""
    runs_folder().mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=runs_folder()))
    processes.record(folder, [])
    return folder


def remove_leftovers() -> list[Path]:
    """Ends and removes what testnets that were killed have left in `runs_folder`; nothing of those that are alive.

    Nor what one that failed has kept there for a person to look at: it has no mark any more.
    """
    removed = []
    folder = runs_folder()
    if not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return []
    for left in sorted(folder.iterdir()):
        try:
            if not (left / processes.RECORD).exists():
                continue
            processes.sweep(left)
            processes.sweep(left / PEERS)
        except processes.AlreadyUp:
            continue
        shutil.rmtree(left, ignore_errors=True)  # another one that just starts may be at it too
        removed.append(left)
    return removed


async def tidy(tell: Callable[[str], None]) -> None:
    """`remove_leftovers`, and tells of each."""
    for left in await trio.to_thread.run_sync(remove_leftovers):
        tell(f"Removed {left}, which a testnet that was killed had left behind.")


@contextmanager
def run_folder(out: Path | None) -> Iterator[Path]:
    """`out`, which keeps everything; or, without one, a folder that goes with the run, unless its peers failed.

    BadFolder, AlreadyUp.
    """
    folder = temporary_folder() if out is None else _marked(out)
    keep = out is not None
    try:
        yield folder
    except Exception:  # not a cancellation
        keep = keep or (folder / PEERS).exists()
        raise
    finally:
        processes.forget(folder)
        if not keep:
            shutil.rmtree(folder)


def _marked(out: Path) -> Path:
    folder = out.expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        processes.sweep(folder)
        if any(folder.iterdir()):
            raise BadFolder(f"{folder} is not empty: a run wants a folder of its own.")
        processes.record(folder, [])
    except OSError as exc:
        raise BadFolder(f"{folder} cannot be the folder of a run: {exc.strerror}.") from exc
    return folder
