"""Pictures on disk: whole or not there, and never in place of another without being told."""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peer.errors import WRONG_USAGE, UserError

_OTHER_FORMATS = frozenset({".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})


@dataclass(frozen=True)
class Destination:
    """Where the pictures of one job go."""

    folder: Path
    name: str | None  # a file's name, as given; None: from seed and job
    count: int
    replace: bool

    @property
    def refined(self) -> "Destination":
        """Where the same pictures go, drawn as they were asked for."""
        if self.name is None:
            return self
        path = Path(self.name)
        return Destination(self.folder, f"{path.stem}-refined{path.suffix}", self.count, self.replace)

    def file(self, number: int, *, seed: int, job: str) -> Path:
        """The path of picture `number`, counted from 1."""
        if self.name is None:
            return self.folder / f"nearlight-{seed}-{job[:8]}.png"
        if self.count == 1:
            return self.folder / self.name
        path = Path(self.name)
        return self.folder / f"{path.stem}-{number}{path.suffix}"

    def save(self, data: bytes, number: int, *, seed: int, job: str) -> Path:
        """Where `data` now is; if a file took the name in the meantime, beside it."""
        path = self.file(number, seed=seed, job=job)
        if self.replace:
            write_whole(path, data, replace=True)
            return path
        for free in _names(path):
            try:
                write_whole(free, data, replace=False)
            except FileExistsError:
                continue
            return free
        raise AssertionError("names never run out")


def destination(output: str | None, *, count: int, replace: bool, refine: bool = False) -> Destination:
    """UserError where a picture could not be written in the end: the time to say so is before it is drawn.

    `refine`: they come twice, and then to `refined`.
    """
    path = Path("." if output is None else output).expanduser()
    into_folder = output is None or path.is_dir() or output.endswith(os.sep)
    folder = path if into_folder else path.parent
    if not folder.is_dir():
        raise UserError(f"The folder {folder} for the picture does not exist.", WRONG_USAGE)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"The folder {folder} for the picture cannot be written to.", WRONG_USAGE)
    folder = folder.resolve()
    if into_folder:
        return Destination(folder, None, count, replace)
    if path.suffix.lower() in _OTHER_FORMATS:
        raise UserError(f"The picture is a PNG file: name it {path.stem}.png, not {path.name}.", WRONG_USAGE)
    found = Destination(folder, path.name if path.suffix else f"{path.name}.png", count, replace)
    if not replace:
        for place in (found, found.refined) if refine else (found,):
            for number in range(1, count + 1):
                if os.path.lexists(file := place.file(number, seed=0, job="")):
                    raise UserError(f"{file} exists already; --force replaces it.", WRONG_USAGE)
    return found


def write_whole(path: Path, data: bytes, *, replace: bool) -> None:
    """The file `path` holds all of `data`, on disk when this returns; FileExistsError if there is one, OSError."""
    beside = path.with_name(f".nearlight-{secrets.token_hex(8)}")
    # 0666 less the umask: a picture is for whoever the person's files are for.
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            beside.replace(path)
        else:
            _rename_to_new(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _rename_to_new(beside: Path, path: Path) -> None:
    try:
        os.link(beside, path)  # unlike a rename, never replaces
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: FAT, some network shares
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        beside.replace(path)


def _names(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
