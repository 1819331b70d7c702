"""One request to the control door, ended by Ctrl-C as well as by its last event."""

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from peer.errors import CANCELLED, LOCAL_SETUP, NOBODY, UserError

if TYPE_CHECKING:
    import socket

    from peer.config import PeerConfig

Event = dict[str, Any]
OnEvent = Callable[[str, Event], Any]


def call(
    config: "PeerConfig", kind: str, body: Event, on_event: OnEvent, *, settings: Sequence[str] = ()
) -> None:
    """Returns after the last event; UserError, with the code of "cancelled" after Ctrl-C.

    `settings`: the flags that a person gave for a peer of their own; of a running one they are told that it has its own.
    """
    from peer.door import knock

    connection = knock(config.home)
    if connection is not None:
        if settings:
            words = f"The running peer is used, with its own settings: {', '.join(settings)} changed nothing."
            on_event("told", {"picture": None, "sentence": words})
        _of_daemon(connection, kind, body, on_event)
    elif kind == "cancel":
        raise UserError("No peer is running here, so there is no job to cancel.", NOBODY)
    elif kind in ("jobs", "why"):
        on_event(kind, _of_ledger(config, kind, body))
    else:
        import trio

        from peer.control import ask_own

        trio.run(_until_signal, functools.partial(ask_own, config, kind, body, on_event))


def _of_daemon(connection: "socket.socket", kind: str, body: Event, on_event: OnEvent) -> None:
    from peer.door import ask

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with connection:  # closing it is what cancels
            ask(connection, kind, body, on_event)
    except KeyboardInterrupt:
        raise UserError("Cancelled.", CANCELLED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _of_ledger(config: "PeerConfig", kind: str, body: Event) -> Event:
    """What the ledger alone can answer."""
    from peer import history
    from peer.store.ledger import Ledger, LedgerError

    try:
        ledger = Ledger(config.home / "ledger.sqlite3")
    except LedgerError as exc:
        raise UserError(str(exc), LOCAL_SETUP) from exc
    try:
        if kind == "jobs":
            return {"jobs": history.jobs(ledger, body["limit"])}
        return {"report": history.why(ledger, body["job"])}
    finally:
        ledger.close()


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
