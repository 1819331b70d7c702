"""The command `python -m testnet`: its flags, and how it ends."""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import trio

from . import flow, playing, report, witness
from .failed import NOT_DONE, WRONG_USAGE, failed
from .interrupts import SIGNAL_EXIT_CODE, run_until_signal
from .packets import BadRecord
from .processes import AlreadyUp
from .run_folder import tidy
from .swarm import MAX_PEERS, Swarm, SwarmConfig, SwarmError, swarm


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        sys.exit(failed(f"{self.prog}: error: {message}", WRONG_USAGE, as_json="--json" in sys.argv))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m testnet", description="Swarms of real peers on this machine.")
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
    control = commands.add_parser(
        "control",
        help="count what staying in touch costs a peer, by the size of the swarm; exit code 1 where it is too much",
    )
    if arguments[:1] == ["control"]:
        from .simulation.control import add_arguments as add_control_arguments

        add_control_arguments(control)
    playing.add_run_arguments(
        commands.add_parser("run", help="run scenarios, and compare what comes out with what they expect")
    )
    seen = commands.add_parser(
        "witness",
        help="compare the timelines of a run with the record of its packets; exit code 1 where they differ",
    )
    seen.add_argument("run", type=Path, metavar="RUN", help="the folder of `run --out`")
    seen.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    measured = commands.add_parser(
        "goodput",
        help="what one TCP flow among real peers gets of a line's rate; exit code 1 where it is too little",
    )
    flow.add_arguments(measured)
    playing.add_agree_arguments(
        commands.add_parser(
            "agree",
            help="run a scenario with real peers and in virtual time; exit code 1 where the times differ too much",
        )
    )
    report.add_arguments(
        commands.add_parser("report", help="draw what runs and simulations left, on one HTML page")
    )
    options = parser.parse_args(arguments)
    if options.command == "goodput" and (sentence := flow.why_not(options)):
        measured.error(sentence)
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
        on_progress=playing.tell,
    )
    ready = False

    async def until_a_peer_leaves() -> int:
        nonlocal ready
        await tidy(playing.tell)
        try:
            async with swarm(config) as running:
                print(_as_json(running) if options.json else _as_text(running), flush=True)
                ready = True
                await running.wait_peer_left()
        except (SwarmError, AlreadyUp) as exc:
            return failed(str(exc), NOT_DONE, as_json=options.json)
        return NOT_DONE

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


def compare_with_witness(options: argparse.Namespace) -> int:
    try:
        found = witness.compare(options.run)
    except (witness.NoWitness, BadRecord) as exc:
        return failed(str(exc), NOT_DONE, as_json=options.json)
    print(witness.table(found), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        phases = [{**asdict(each), "agrees": each.agrees} for each in found.phases]
        print(
            json.dumps(
                {"ok": found.ok, "phases": phases, "left_out": [asdict(each) for each in found.left_out]}
            )
        )
    return 0 if found.ok else 1


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "simulate":
            from .simulation.command import simulate

            return simulate(options)
        case "control":
            from .simulation.control import control

            return control(options)
        case "report":
            return report.report(options)
        case "witness":
            return compare_with_witness(options)
        case "goodput":
            return trio.run(run_until_signal, lambda: flow.goodput(options))
        case "agree":
            return trio.run(run_until_signal, lambda: playing.agree(options))
        case "run":
            return trio.run(run_until_signal, lambda: playing.run_scenarios(options))
        case _:
            return trio.run(up, options)


def main() -> NoReturn:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is something to clean up
    code = NOT_DONE
    try:
        try:
            code = _run(options)
        except KeyboardInterrupt:
            code = SIGNAL_EXIT_CODE + signal.SIGINT
        if code > SIGNAL_EXIT_CODE:
            failed("Cancelled.", code, as_json=options.json)
        sys.stdout.flush()
    except* BrokenPipeError:
        # Who read our output has gone.  Python would fail once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
