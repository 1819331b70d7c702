"""Safetensors files on this disk: their headers, bounded, and the roots of their bytes.  No torch."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from protocol.wire.manifest import FileHasher, ManifestFile

from .digests import DigestCache

MAX_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself
_READ_BYTES = 1 << 20


class NotSafetensors(Exception):
    """What is wrong with it: the rest of a sentence that begins with the file."""


def header(file: BinaryIO, size: int) -> dict[str, Any]:
    """Of a file of `size` bytes that is whole; leaves it at its start.  NotSafetensors."""
    header_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
        raise NotSafetensors("is no safetensors file, or an interrupted download")
    try:
        found: dict[str, Any] = json.loads(file.read(header_bytes))
        ends = [tensor["data_offsets"][1] for name, tensor in found.items() if name != "__metadata__"]
        data_bytes = max(ends, default=0)
        complete = 8 + header_bytes + data_bytes == size
    except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as exc:
        raise NotSafetensors("is no safetensors file") from exc
    if not complete:
        raise NotSafetensors(
            f"has {size} bytes where its header tells of {8 + header_bytes + data_bytes}: an interrupted download"
        )
    file.seek(0)
    return found


def read_header(path: Path) -> dict[str, Any]:
    """NotSafetensors, OSError."""
    with path.open("rb") as file:
        return header(file, os.fstat(file.fileno()).st_size)


def manifest_file(path: Path, name: str, cache: DigestCache | None) -> ManifestFile:
    """As a manifest counts the weights in `path`, there called `name`; NotSafetensors, OSError."""
    real = path.resolve()
    with real.open("rb") as file:
        status = os.fstat(file.fileno())
        root = cache.get(real, status) if cache else None
        if root is None:
            header(file, status.st_size)
            hasher = FileHasher()
            for block in _blocks(file):
                hasher.update(block)
            root = hasher.root()
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
                raise NotSafetensors("changed while it was read; try again")
            if cache:
                cache.put(real, status, root)
    return ManifestFile(name, status.st_size, root)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_READ_BYTES):
        yield block
