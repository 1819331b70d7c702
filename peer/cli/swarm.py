"""`peer swarm`: who is there, once or again and again."""

import sys
import time
from typing import TYPE_CHECKING

from peer.errors import CANCELLED, UserError

from .call import answer
from .show import adapters_lines, console, print_json, swarm_table

if TYPE_CHECKING:
    from peer.config import PeerConfig

REFRESH_S = 1.0


ALONE = "Nobody else is known here; `peer up --join ADDR` joins a swarm."


def show_swarm(config: "PeerConfig", *, watch: bool, as_json: bool) -> None:
    if not watch:
        _show(config, as_json=as_json)
        return
    moving = console().is_terminal and not as_json
    try:
        while True:
            started_s = time.monotonic()
            _show(config, as_json=as_json, over=moving)
            time.sleep(max(0.0, REFRESH_S - (time.monotonic() - started_s)))
    except UserError as exc:
        if exc.exit_code != CANCELLED:
            raise
    except KeyboardInterrupt:
        pass  # how a watch ends
    if moving:
        print()  # below the ^C that the terminal shows


def _show(config: "PeerConfig", *, as_json: bool, over: bool = False) -> None:
    """`over`: in place of what the terminal showed before."""
    swarm = answer(config, "swarm", {})
    if as_json:
        print_json(swarm)
        return
    screen = console()
    with screen.capture() as captured:
        screen.print(swarm_table(swarm["peers"], screen.width))
        for line in adapters_lines(swarm["peers"]):
            screen.print(line)
        if all(peer.get("self") for peer in swarm["peers"]):
            screen.print(ALONE)
        if over:
            screen.print("\nOnce a second, until Ctrl-C.")
    if over:
        screen.clear()
    sys.stdout.write(captured.get())
    sys.stdout.flush()
