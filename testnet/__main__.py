"""`python -m testnet up`: a swarm of real peers on this machine, until Ctrl-C.  `simulate`: thousands, in virtual time."""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import trio

from . import report, witness
from .interrupts import SIGNAL_EXIT_CODE, run_until_signal
from .net import CannotEmulate, RouterDied
from .outcome import table
from .packets import BadRecord
from .processes import AlreadyUp, OrphansLeft
from .run import Result, run
from .run_folder import NotEmpty
from .scenario import BadScenario, Loaded, load, names
from .swarm import MAX_PEERS, Swarm, SwarmConfig, SwarmError, swarm

TOO_BUSY = 0.5  # of the steps kept their pace
TOO_BUSY_TO_COMPARE = 0.95


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
    run = commands.add_parser("run", help="run scenarios, and compare what comes out with what they expect")
    run.add_argument(
        "scenario", nargs="+", metavar="SCENARIO", help=f"{', '.join(names())}, all, or a .py file"
    )
    run.add_argument("--seed", type=int, default=1, metavar="S", help="of all dice, and of the pictures (1)")
    run.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    run.add_argument(
        "--loopback", action="store_true", help="without emulated links: all peers are at no distance"
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="keep everything in an empty folder")
    seen = commands.add_parser(
        "witness",
        help="compare the timelines of a run with the record of its packets; exit code 1 where they differ",
    )
    seen.add_argument("run", type=Path, metavar="RUN", help="the folder of `run --out`")
    seen.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    agree = commands.add_parser(
        "agree",
        help="run a scenario with real peers and in virtual time; exit code 1 where the times differ too much",
    )
    agree.add_argument("scenario", metavar="SCENARIO", help="agreement, regions, or a .py file")
    agree.add_argument(
        "--seed", type=int, default=1, metavar="S", help="of all dice, and of the pictures (1)"
    )
    agree.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    agree.add_argument("--out", type=Path, metavar="DIR", help="keep the real run in an empty folder")
    report.add_arguments(
        commands.add_parser("report", help="draw what runs and simulations left, on one HTML page")
    )
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


async def run_scenarios(options: argparse.Namespace) -> int:
    """Exit code: 0 where all came out as expected, 1 where one did not or could not be run, 2 for a bad scenario."""
    wanted = [each for name in options.scenario for each in (names() if name == "all" else [name])]
    told = sys.stderr if options.json else sys.stdout
    results: list[Result] = []
    code = 0
    for name in wanted:
        out = options.out / name if options.out and len(wanted) > 1 else options.out
        try:
            loaded = load(name, options.seed)
            print(f"{loaded.name}: {loaded.scenario.about}", file=told, flush=True)
            result = await _run_one(loaded, options.seed, out, emulate=not options.loopback)
        except _NotRun as exc:
            code = max(code, exc.code)
            print(exc, file=sys.stderr, flush=True)
            continue
        except BadScenario as exc:
            code = 2
            print(exc, file=sys.stderr, flush=True)
            continue
        results.append(result)
        code = max(code, 0 if result.ok else 1)
        print(_told(result), file=told, flush=True)
    if options.json:
        values = [result.to_value() for result in results]
        one = len(wanted) == 1 and len(values) == 1
        print(json.dumps(values[0] if one else {"ok": code == 0, "scenarios": values}), flush=True)
    return code


async def agree(options: argparse.Namespace) -> int:
    """Exit code: 0 where the times agree, 1 where they do not or it could not be run, 2 for a bad scenario."""
    from . import agreement  # else nothing of the simulation is imported

    told = sys.stderr if options.json else sys.stdout
    try:
        loaded = load(options.scenario, options.seed)
        print(f"{loaded.name}: {loaded.scenario.about}", file=told, flush=True)
        worlds = agreement.simulated_ms(loaded.scenario, options.seed)
        result = await _run_one(loaded, options.seed, options.out, emulate=True)
    except BadScenario as exc:
        print(exc, file=sys.stderr)
        return 2
    except _NotRun as exc:
        print(exc, file=sys.stderr)
        return exc.code
    compared = agreement.compare(agreement.real_ms(result.outcome), worlds)
    agrees = all(each.agrees for each in compared)
    drawn = f"{len(result.outcome.jobs)} pictures with real peers, as many in each of {len(worlds)} worlds"
    if result.paced_on_time is not None and result.paced_on_time < TOO_BUSY_TO_COMPARE:
        late = 1 - result.paced_on_time
        drawn += f"; {late:.0%} of the real steps were late, so this compares with a busy machine, not with the network"
    print(f"{_told(result)}{agreement.table(compared)}\n  {drawn}", file=told, flush=True)
    if options.json:
        value = {
            "ok": agrees,
            "scenario": loaded.name,
            "seed": options.seed,
            "pictures": len(result.outcome.jobs),
            "worlds": len(worlds),
            "load_average": result.load_average,
            "paced_on_time": result.paced_on_time,
            "quantiles": [{**asdict(each), "ratio": each.ratio, "agrees": each.agrees} for each in compared],
        }
        print(json.dumps(value), flush=True)
    return 0 if agrees else 1


class _NotRun(Exception):
    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


async def _run_one(loaded: Loaded, seed: int, out: Path | None, *, emulate: bool) -> Result:
    """_NotRun, with the exit code it is worth."""
    problem: _NotRun | None = None
    result: Result | None = None
    try:
        result = await run(loaded, seed=seed, emulate=emulate, out=out, tell=_tell)
    except* (BadScenario, NotEmpty) as group:
        problem = _NotRun(2, _first(group))
    except* CannotEmulate as group:
        problem = _NotRun(1, f"{_first(group)} `run --loopback` runs it without emulated links.")
    except* (SwarmError, AlreadyUp, OrphansLeft, RouterDied) as group:
        problem = _NotRun(1, _first(group))
    if problem is not None:
        raise problem
    assert result is not None
    return result


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def compare_with_witness(options: argparse.Namespace) -> int:
    try:
        compared = witness.compare(options.run)
    except (witness.NoWitness, BadRecord) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(witness.table(compared), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"phases": [{**asdict(each), "agrees": each.agrees} for each in compared]}))
    return 0 if compared and all(each.agrees for each in compared) else 1


def _first(group: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _told(result: Result) -> str:
    links = (
        f"emulated links ({result.topology})" if result.emulated else "plain loopback: links are not emulated"
    )
    load = " to ".join(f"{each:.1f}" for each in result.load_average)
    paced = ", ".join(f"{name} {ms}" for name, ms in result.paced_ms.items())
    kept = "" if result.paced_on_time is None else f", kept by {result.paced_on_time:.0%} of their steps"
    if result.paced_on_time is not None and result.paced_on_time < TOO_BUSY:
        kept += ": this machine was too busy for the times to mean much"
    return (
        f"{table(result.judged)}\n  over {links}; everyone knew everyone after {result.up_us / 1e6:.1f} s; "
        f"load average {load}; renderers paced to ms a step: {paced or 'none'}{kept}\n"
    )


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        if options.command == "simulate":
            from .simulation.command import simulate

            code = simulate(options)
        elif options.command == "report":
            code = report.report(options)
        elif options.command == "witness":
            code = compare_with_witness(options)
        elif options.command == "agree":
            code = trio.run(run_until_signal, lambda: agree(options))
        elif options.command == "run":
            code = trio.run(run_until_signal, lambda: run_scenarios(options))
        else:
            code = trio.run(up, options)
    except KeyboardInterrupt:  # a second one, after the clean-up
        code = SIGNAL_EXIT_CODE + signal.SIGINT
    sys.exit(code)


if __name__ == "__main__":
    main()
