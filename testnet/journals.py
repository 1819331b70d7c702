"""Follows a peer's journal while it is being written."""

import json
from pathlib import Path
from typing import Any

FILE = "journal.jsonl"


class Follower:
    """The entries that are appended to one journal from now on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def rewind(self) -> None:
        """The entries from the first one on are new again."""
        self._offset = 0

    def new_entries(self) -> list[dict[str, Any]]:
        """The complete entries since the last call; a line that has no end yet is left for the next one."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [entry for line in complete.splitlines() if (entry := _entry(line)) is not None]


def entries(path: Path) -> list[dict[str, Any]]:
    """All complete entries that are in the file; none where there is no file."""
    follower = Follower(path)
    follower.rewind()
    return follower.new_entries()


def _entry(line: bytes) -> dict[str, Any] | None:
    """None for a line whose writer was killed inside it."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def last_lines(path: Path, count: int) -> list[str]:
    """At most `count` lines from the end of a text file, control characters shown; none where there is no file."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [
        "".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.splitlines()[-count:]
    ]
