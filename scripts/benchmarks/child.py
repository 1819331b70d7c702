"""A process of ours that answers lines and ends with its input."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """Lines of JSON to and from `python -m MODULE ARGUMENTS`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    async def read(self) -> Any:
        assert self._process.stdout is not None
        line = await trio.to_thread.run_sync(self._process.stdout.readline)
        if not line:
            raise RuntimeError(f"process {self._process.args!r} ended early")
        return json.loads(line)

    async def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return await self.read()


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[Child]:
    process = subprocess.Popen(  # noqa: ASYNC220 - takes a moment, before anything is measured
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Child(process)
    finally:
        process.kill()
        process.communicate()
