"""`peer swarm`: who is there, once or again and again."""

import time
from typing import TYPE_CHECKING

from peer.errors import CANCELLED, UserError

from .call import answer
from .show import console, print_json, swarm_table

if TYPE_CHECKING:
    from peer.config import PeerConfig

REFRESH_S = 1.0


def show_swarm(config: "PeerConfig", *, watch: bool, as_json: bool) -> None:
    if not watch:
        _show(config, as_json=as_json)
        return
    screen = console()
    try:
        while True:
            started_s = time.monotonic()
            _show(config, as_json=as_json, clear=screen.is_terminal)
            time.sleep(max(0.0, REFRESH_S - (time.monotonic() - started_s)))
    except UserError as exc:
        if exc.exit_code != CANCELLED:
            raise
    except KeyboardInterrupt:
        pass  # how a watch ends


def _show(config: "PeerConfig", *, as_json: bool, clear: bool = False) -> None:
    swarm = answer(config, "swarm", {})
    if as_json:
        print_json(swarm)
        return
    screen = console()
    if clear:
        screen.clear()
    screen.print(swarm_table(swarm["peers"]))
