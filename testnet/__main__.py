"""`python -m testnet up`: a swarm of real peers on this machine, until Ctrl-C.  `simulate`: thousands, in virtual time."""

import argparse
import json
import signal
import sys
from pathlib import Path

import trio

from .interrupts import SIGNAL_EXIT_CODE, run_until_signal
from .processes import AlreadyUp
from .swarm import MAX_PEERS, Swarm, SwarmConfig, SwarmError, swarm


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m testnet", description="Swarms of real peers on this machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start peers that know each other, and stop them on Ctrl-C")
    up.add_argument("--peers", type=int, default=5, metavar="N", help="how many (5)")
    up.add_argument("--providers", type=int, metavar="N", help="how many of them provide (all)")
    up.add_argument(
        "--home", type=Path, metavar="DIR", help="where they live; by default a folder that goes with them"
    )
    up.add_argument(
        "--model", type=Path, action="append", default=[], metavar="DIR", help="a model for each provider"
    )
    up.add_argument(
        "--json", action="store_true", help="print one JSON object, on one line, once they are ready"
    )
    simulate = commands.add_parser(
        "simulate", help="compare policies with thousands of peers in virtual time"
    )
    if arguments[:1] == ["simulate"]:  # else nothing of it is imported
        from .simulation.command import add_arguments

        add_arguments(simulate)
    options = parser.parse_args(arguments)
    if options.command != "up":
        return options
    if not 1 <= options.peers <= MAX_PEERS:
        up.error(f"--peers must be 1 to {MAX_PEERS}, not {options.peers}.")
    if options.providers is not None and not 0 <= options.providers <= options.peers:
        up.error(f"--providers must be 0 to {options.peers}, not {options.providers}.")
    return options


async def up(options: argparse.Namespace) -> int:
    config = SwarmConfig(
        peers=options.peers,
        providers=options.providers,
        home=options.home,
        models=tuple(model.resolve() for model in options.model),
        on_progress=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    ready = False

    async def until_a_peer_leaves() -> int:
        nonlocal ready
        try:
            async with swarm(config) as running:
                print(_as_json(running) if options.json else _as_text(running), flush=True)
                ready = True
                await running.wait_peer_left()
        except (SwarmError, AlreadyUp) as exc:
            print(exc, file=sys.stderr)
        return 1

    code = await run_until_signal(until_a_peer_leaves)
    return 0 if ready and code > SIGNAL_EXIT_CODE else code  # a signal is how a testnet that is up ends


def _as_json(running: Swarm) -> str:
    peers = [
        {
            "peer": peer.peer_id,
            "name": peer.name,
            "pid": peer.pid,
            "home": str(peer.home),
            "address": peer.address,
            "provides": peer.provides,
        }
        for peer in running.peers
    ]
    return json.dumps({"home": str(running.home), "ready_us": running.ready_us, "peers": peers})


def _as_text(running: Swarm) -> str:
    lines = [
        f"{len(running.peers)} peers know each other, {running.ready_us / 1e6:.1f} s after the last start:"
    ]
    for peer in running.peers:
        role = "provides" if peer.provides else "requests"
        lines.append(f"  p{peer.index}  {role}  pid {peer.pid}  {peer.address}")
    lines += [
        "Ask one of them:",
        f'  peer render "a gold spiral on navy" --remote --home {running.peers[-1].home}',
        "Ctrl-C stops them all.",
    ]
    return "\n".join(lines)


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        if options.command == "simulate":
            from .simulation.command import simulate

            code = simulate(options)
        else:
            code = trio.run(up, options)
    except KeyboardInterrupt:  # a second one, after the clean-up
        code = SIGNAL_EXIT_CODE + signal.SIGINT
    sys.exit(code)


if __name__ == "__main__":
    main()
