"""Runs the benchmarks one after another and prints one table.  Started by scripts/bench."""

import json
import sys
from collections.abc import Awaitable, Callable

import trio
from rich.console import Console
from rich.table import Table

from peer.errors import UserError
from testnet.swarm import SwarmError

from . import arguments, bulk, choice, jobs, laboratory, reference, swarms
from .figures import Figure, NotMeasured, load_average

BENCHMARKS: dict[str, Callable[[int], Awaitable[list[Figure]]]] = {
    "overhead": jobs.overhead,
    "reference": reference.reference,
    "preview": jobs.preview,
    "transfer": bulk.transfer,
    "virtual_transfer": bulk.virtual_transfer,
    "plan": choice.plan_time,
    "idle": swarms.idle,
    "idle_many": swarms.idle_many,
    "contact": swarms.contact,
    "swarm": swarms.known,
    "selection": choice.selection,
    "links": laboratory.links,
    "up": laboratory.up,
    "witness": laboratory.witness,
    "agreement": laboratory.agreement,
    "simulation": laboratory.simulation,
    "broker": laboratory.broker,
}
assert BENCHMARKS.keys() == arguments.NAMES.keys()

WIDTH = 130  # where it goes into a file


Missing = tuple[str, str]  # the name of a benchmark, and what it lacks here


async def measure(names: list[str], runs: int) -> tuple[list[tuple[Figure, float]], list[Missing]]:
    """Each figure with the higher of the load averages before and after it; and what could not be measured."""
    measured: list[tuple[Figure, float]] = []
    missing: list[Missing] = []
    for name in names:
        before = load_average()
        print(f"{name}: {arguments.NAMES[name]} (load average {before}) ...", file=sys.stderr, flush=True)
        try:
            figures = await BENCHMARKS[name](runs)
        except NotMeasured as exc:
            missing.append((name, str(exc)))
            continue
        load = max(before, load_average())
        measured += [(figure, load) for figure in figures]
    return measured, missing


def table_of(measured: list[tuple[Figure, float]], missing: list[Missing]) -> Table:
    table = Table(title="Nearlight's numbers on this machine")
    table.add_column("figure", no_wrap=True)
    table.add_column("what")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("spread", justify="right", no_wrap=True)
    table.add_column("wanted", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("runs", justify="right")
    table.add_column("load", justify="right")
    for figure, load in measured:
        verdict = "[green]met[/]" if figure.met else "[red]missed[/]"
        value = f"{_shown(figure.value)} {figure.unit}"
        spread = "" if figure.spread is None else " to ".join(map(_shown, figure.spread))
        table.add_row(
            figure.name,
            figure.says,
            value,
            spread,
            figure.wanted,
            verdict,
            str(figure.runs),
            f"{load:.2f}",
        )
    for name, lacks in missing:
        table.add_row(name, f"not measured: {lacks}")
    return table


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> int:
    options = arguments.parse(sys.argv[1:])
    names = [name for name in BENCHMARKS if options.only is None or name in options.only]
    try:
        measured, missing = trio.run(measure, names, options.runs)
    except (SwarmError, UserError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    out = sys.stderr if options.json else sys.stdout
    Console(file=out, width=None if out.isatty() else WIDTH).print(table_of(measured, missing))
    if options.json:
        figures = [figure.to_json() | {"load": load} for figure, load in measured]
        not_measured = [{"benchmark": name, "lacks": lacks} for name, lacks in missing]
        print(json.dumps({"figures": figures, "not_measured": not_measured}))
    return 0 if all(figure.met for figure, _ in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
