"""What happened in this peer, one JSON object a line: for people, tests and reports.

Every entry has ``at`` (wall clock, ISO 8601, UTC), ``t_us`` (CLOCK_MONOTONIC, microseconds: comparable between the
processes of one machine) and ``event``; its other fields are plain JSON.  Prompts are never among them.
"""

import datetime
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .store.disk import make_private_folder

FILE = "journal.jsonl"
MAX_FILE_BYTES = 16 << 20  # some 100,000 entries: days of a busy peer; one older file of this size is kept
_OWN_FIELDS = frozenset({"at", "t_us", "event"})
_SECRET_FIELDS = frozenset({"prompt", "negative", "psk"})


class Journal:
    """Appends to one file; several threads may write."""

    def __init__(self, path: Path, *, at_most_bytes: int = MAX_FILE_BYTES) -> None:
        make_private_folder(path.parent)
        self.path = path
        self._at_most_bytes = at_most_bytes
        self._lock = threading.Lock()
        self._entries = 0
        self._rotations = 0
        self._open()

    def write(self, event: str, **fields: Any) -> None:
        """One entry, handed to the system before this returns.

        TypeError or ValueError for fields that are no plain JSON, or that could hold a prompt or a secret.
        """
        if taken := _OWN_FIELDS & fields.keys():
            raise ValueError(f"the journal itself sets {', '.join(sorted(taken))}")
        _check_no_secret(fields)
        with self._lock:
            entry = {"at": _now_iso(), "t_us": time.monotonic_ns() // 1000, "event": event, **fields}
            line = json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n"
            if self._bytes and self._bytes + len(line) > self._at_most_bytes:
                self._rotate()
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            self._bytes += len(line)
            self._entries += 1

    def statistics(self) -> dict[str, int]:
        return {"entries": self._entries, "bytes": self._bytes, "rotations": self._rotations}

    def close(self) -> None:
        os.close(self._descriptor)

    @staticmethod
    def read(path: Path) -> Iterator[dict[str, Any]]:
        """The entries of the file `path`, and of the older one beside it, oldest first.

        A line that is not an entry (its writer was killed inside it) comes as the event ``unreadable``; one that has
        no end yet is still being written, and is left for the next read.
        """
        for each in (_older(path), path):
            try:
                file = each.open("rb")
            except FileNotFoundError:
                continue
            with file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):
                        yield _entry(line) or {"event": "unreadable", "file": each.name, "line": number}

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._bytes = os.fstat(self._descriptor).st_size
        if self._bytes and os.pread(self._descriptor, 1, self._bytes - 1) != b"\n":
            self._bytes += os.write(self._descriptor, b"\n")  # the last writer was killed inside a line

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self.path.replace(_older(self.path))
        self._open()
        self._rotations += 1


def _older(path: Path) -> Path:
    return path.with_name(f"{path.stem}.1{path.suffix}")


def _now_iso() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("event"), str) else None


def _check_no_secret(value: Any) -> None:
    """ValueError if a map anywhere in `value` has a field that holds what a journal must not."""
    if isinstance(value, dict):
        if secret := _SECRET_FIELDS & value.keys():
            raise ValueError(f"a journal holds no {', '.join(sorted(secret))}")
        for item in value.values():
            _check_no_secret(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_no_secret(item)
