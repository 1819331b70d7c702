"""`peer up`: runs the daemon, and says how others join it."""

import shlex
from typing import TYPE_CHECKING, Any

from protocol.wire.fields import plain

from .show import sentence, who

if TYPE_CHECKING:
    from peer.config import PeerConfig


def run(config: "PeerConfig") -> None:
    """Until SIGINT or SIGTERM; UserError."""
    import trio

    from peer.control import serve

    def on_event(kind: str, event: dict[str, Any]) -> None:
        for line in lines(kind, event, config.network):
            print(line, flush=True)
        if kind == "listening" and not config.provide:
            print("It renders for nobody else; --provide has it do so.", flush=True)

    try:
        trio.run(serve, config, on_event)
    except* KeyboardInterrupt:
        pass  # before it was ready to be told: nothing is left to tidy up


def lines(kind: str, event: dict[str, Any], network: str) -> list[str]:
    """What is said of an event of the daemon."""
    match kind:
        case "listening":
            listening = [f"Listening at {plain(str(address), 200)}" for address in event["addresses"]]
            if not listening and not event["join"]:
                return ["This machine has no network address: nobody can join this peer."]
            return [*listening, *_join_lines([str(address) for address in event["join"]], network)]
        case "connected":
            return [f"Connected to {who(event.get('name'), event.get('peer'))}."]
        case "left":
            return [f"{who(event.get('name'), event.get('peer'))} left."]
        case _:
            said = event.get("sentence")
            return [] if said is None else [sentence(said)]


def _join_lines(addresses: list[str], network: str) -> list[str]:
    from peer.config import DEFAULT_NETWORK

    if not addresses:
        return []
    outside = [address for address in addresses if not address.startswith(("/ip4/127.", "/ip6/::1/"))]
    options = [f"--join {shlex.quote(plain(address, 200))}" for address in outside or addresses]
    if network != DEFAULT_NETWORK:
        options.append(f"--network {network}")
    return ["Others join with:", f"  peer up {' '.join(options)}"]
