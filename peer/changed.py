"""Wakes whoever waits for something to change."""

import trio


class Changed:
    """`wait` returns at the next `notify`; look at the state before waiting, and again after."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()
