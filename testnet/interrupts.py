"""Ctrl-C and SIGTERM end a command by cancelling it, so that its clean-up runs."""

import signal
from collections.abc import Awaitable, Callable

import trio

SIGNAL_EXIT_CODE = 128  # plus the signal's number, as shells have it: Ctrl-C is 130


async def run_until_signal(main: Callable[[], Awaitable[int]]) -> int:
    """The exit code of `main`, or 128 + n if signal n cancelled it."""
    caught = code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal caught
                async for number in signals:
                    caught = caught or number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            code = await main()
            nursery.cancel_scope.cancel()
    return SIGNAL_EXIT_CODE + caught if caught else code
