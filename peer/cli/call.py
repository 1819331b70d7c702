"""One request to the control door, ended by Ctrl-C as well as by its last event."""

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from peer.errors import CANCELLED, UserError

if TYPE_CHECKING:
    from peer.config import PeerConfig

Event = dict[str, Any]
OnEvent = Callable[[str, Event], Any]


def call(
    config: "PeerConfig", kind: str, body: Event, on_event: OnEvent, *, settings: Sequence[str] = ()
) -> None:
    """Returns after the last event; UserError, with the code of "cancelled" after Ctrl-C.

    `settings`: the flags given that a running peer does not heed.
    """
    import trio

    from peer.control import request

    trio.run(_until_signal, functools.partial(request, config, kind, body, on_event, settings=settings))


def answer(config: "PeerConfig", kind: str, body: Event) -> Event:
    """The body of the one event `kind` asks for: the last."""
    events: list[Event] = []
    call(config, kind, body, lambda _, event: events.append(event))
    if not events:
        raise UserError(f"The peer closed the connection without an answer to {kind!r}.")
    return events[-1]


async def _until_signal(run: Callable[[], Awaitable[None]]) -> None:
    import trio

    failure: UserError | None = None
    interrupted = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal interrupted
                async for _ in signals:
                    if interrupted:
                        os._exit(CANCELLED)  # asked twice: whoever still tidies up here is left behind
                    interrupted = True
                    print("Cancelling; Ctrl-C once more leaves at once.", file=sys.stderr, flush=True)
                    scope.cancel()

            with trio.CancelScope() as scope:
                nursery.start_soon(watch)
                try:
                    await run()
                except UserError as exc:
                    failure = exc
            nursery.cancel_scope.cancel()
    if interrupted:
        raise UserError("Cancelled.", CANCELLED)
    if failure is not None:
        raise failure
