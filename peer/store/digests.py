"""Remembers the roots of files that were hashed before: gigabytes of weights are read once, not at each start."""

import json
import os
from pathlib import Path

from .disk import make_private_folder, replace_file

FILE = "models.json"
MAX_FILES = 4096


class DigestCache:
    """Roots of files that were hashed before, by path, size and time of change, so that a start hashes nothing twice.

    It may be lost or broken at any time: it is then made again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._roots = _read_cache(path)
        self._changed = False
        self._hits = 0
        self._misses = 0

    def get(self, path: Path, status: os.stat_result) -> bytes | None:
        size, mtime_ns, root = self._roots.get(str(path), (-1, -1, b""))
        if (size, mtime_ns) == (status.st_size, status.st_mtime_ns):
            self._hits += 1
            return root
        self._misses += 1
        return None

    def put(self, path: Path, status: os.stat_result, root: bytes) -> None:
        self._roots.pop(str(path), None)
        self._roots[str(path)] = (status.st_size, status.st_mtime_ns, root)
        while len(self._roots) > MAX_FILES:
            del self._roots[next(iter(self._roots))]
        self._changed = True

    def save(self) -> None:
        if self._changed:
            make_private_folder(self._path.parent)
            files = {
                path: [size, mtime_ns, root.hex()] for path, (size, mtime_ns, root) in self._roots.items()
            }
            replace_file(self._path, json.dumps({"files": files}).encode())
            self._changed = False

    def statistics(self) -> dict[str, int]:
        return {"files": len(self._roots), "hits": self._hits, "misses": self._misses}


def _read_cache(path: Path) -> dict[str, tuple[int, int, bytes]]:
    try:
        files = json.loads(path.read_bytes())["files"]
        return {
            str(name): (int(size), int(mtime_ns), bytes.fromhex(root))
            for name, (size, mtime_ns, root) in files.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
        return {}  # made again from the files themselves
