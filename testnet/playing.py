"""The commands that play scenarios: `run`, with real peers, and `agree`, with real peers and in virtual time."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .failed import NOT_DONE, WRONG_USAGE, failed
from .net import CannotEmulate, RouterDied
from .outcome import table
from .processes import AlreadyUp, OrphansLeft
from .run import Result, run
from .run_folder import BadFolder
from .scenario import BadScenario, Loaded, load, names
from .swarm import SwarmError

ALL = "all"
TOO_BUSY = 0.5  # of the steps kept their pace
TOO_BUSY_TO_COMPARE = 0.95
START_S = 12.0  # what a scenario counts in the progress display, beside what it lasts: seen on two cores

OnShare = Callable[[float, str], None]  # of one scenario, and what it is at


class NotRun(Exception):
    """A scenario could not be played: why, and the exit code it is worth."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenario", nargs="+", metavar="SCENARIO", help=f"{', '.join(names())}, {ALL}, or a .py file"
    )
    _add_common(parser)
    parser.add_argument(
        "--loopback", action="store_true", help="without emulated links: all peers are at no distance"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep everything in an empty folder")


def add_agree_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenario", metavar="SCENARIO", help="agreement, regions, degraded_link, or a .py file"
    )
    _add_common(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the real run in an empty folder")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_seed, default=1, metavar="S", help="of all dice, and of the pictures (1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, not {text!r}")
    return int(text)


def tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


async def run_scenarios(options: argparse.Namespace) -> int:
    """Exit code: 0 where all came out as expected, 1 where one did not or could not be run, 2 for a bad scenario."""
    wanted = [each for name in options.scenario for each in (names() if name == ALL else [name])]
    told = sys.stderr if options.json else sys.stdout
    began_s = trio.current_time()
    results: list[Result] = []
    problems: list[tuple[str, NotRun]] = []
    try:
        with _progress(wanted, options.seed) as on_share:
            for number, name in enumerate(wanted):
                out = options.out / name if options.out and len(wanted) > 1 else options.out
                try:
                    loaded = _load(name, options.seed)
                    print(
                        f"{_nth(number, wanted)}{loaded.name}: {loaded.scenario.about}", file=told, flush=True
                    )
                    result = await _play(loaded, options, out, on_share[number])
                except NotRun as exc:
                    problems.append((name, exc))
                    if len(wanted) > 1:
                        tell(str(exc))
                    continue
                results.append(result)
                print(_told(result), file=told, flush=True)
    except trio.Cancelled:
        if len(wanted) > 1:
            tell(f"{len(results) + len(problems)} of {len(wanted)} scenarios had come to their end.")
        raise
    code = max([0, *(problem.code for _, problem in problems), *(not result.ok for result in results)])
    if len(wanted) == 1:
        for _, problem in problems:
            return failed(str(problem), problem.code, as_json=options.json)
    elif not options.json:
        print(_verdict(results, problems, trio.current_time() - began_s), flush=True)
    if options.json:
        values = [result.to_value() for result in results]
        not_run = [{"scenario": name, "error": f"{each}", "exit_code": each.code} for name, each in problems]
        whole = {"ok": code == 0, "scenarios": values, "not_run": not_run}
        print(json.dumps(values[0] if len(wanted) == 1 else whole), flush=True)
    return code


async def agree(options: argparse.Namespace) -> int:
    """Exit code: 0 where the times agree, 1 where they do not or it could not be run, 2 for a bad scenario."""
    from . import agreement  # else nothing of the simulation is imported

    told = sys.stderr if options.json else sys.stdout
    try:
        loaded = _load(options.scenario, options.seed)
        print(f"{loaded.name}: {loaded.scenario.about}", file=told, flush=True)
        simulate = partial(agreement.simulated_ms, loaded.scenario, options.seed)
        worlds = await trio.to_thread.run_sync(simulate, abandon_on_cancel=True)  # type: ignore[call-arg]
        with _progress([options.scenario], options.seed) as on_share:
            result = await _play(loaded, options, options.out, on_share[0])
    except BadScenario as exc:
        return failed(str(exc), WRONG_USAGE, as_json=options.json)
    except NotRun as exc:
        return failed(str(exc), exc.code, as_json=options.json)
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


def _load(name: str, seed: int) -> Loaded:
    try:
        return load(name, seed)
    except BadScenario as exc:
        raise NotRun(WRONG_USAGE, str(exc)) from exc


async def _play(loaded: Loaded, options: argparse.Namespace, out: Path | None, on_share: OnShare) -> Result:
    """NotRun."""
    problem: NotRun | None = None
    result: Result | None = None
    jobs, lasts_s = len(loaded.scenario.jobs), loaded.scenario.lasts_s

    def on_clock(clock_s: float, ended: int) -> None:
        on_share((START_S + clock_s) / (START_S + lasts_s), f"{loaded.name}: {ended} of {jobs} pictures")

    on_share(0.0, f"{loaded.name}: starting")
    emulate = not getattr(options, "loopback", False)
    try:
        result = await run(loaded, seed=options.seed, emulate=emulate, out=out, tell=tell, on_clock=on_clock)
    except* (BadScenario, BadFolder) as group:
        problem = NotRun(WRONG_USAGE, first(group))
    except* CannotEmulate as group:
        problem = NotRun(NOT_DONE, f"{first(group)} `run --loopback` runs it without emulated links.")
    except* (SwarmError, AlreadyUp, OrphansLeft, RouterDied) as group:
        problem = NotRun(NOT_DONE, first(group))
    if problem is not None:
        raise problem
    assert result is not None
    return result


@contextmanager
def _progress(wanted: Sequence[str], seed: int) -> Iterator[list[OnShare]]:
    """A bar on a terminal's stderr while scenarios are played: to be told how far each of `wanted` is."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # else what goes into a file would go to the terminal
    ) as bar:
        if bar.disable:
            yield [lambda share, words: None for _ in wanted]
            return
        weights = [_weight_s(name, seed) for name in wanted]
        task = bar.add_task("", total=sum(weights) or 1.0)

        def told(number: int) -> OnShare:
            def on_share(share: float, words: str) -> None:
                done_s = sum(weights[:number]) + weights[number] * min(1.0, share)
                bar.update(task, completed=done_s, description=f"{_nth(number, wanted)}{words}")

            return on_share

        yield [told(number) for number in range(len(wanted))]


def _weight_s(name: str, seed: int) -> float:
    try:
        return START_S + load(name, seed).scenario.lasts_s
    except BadScenario:
        return 0.0  # it is told when its turn comes


def _nth(number: int, wanted: Sequence[str]) -> str:
    return f"[{number + 1}/{len(wanted)}] " if len(wanted) > 1 else ""


def first(group: BaseExceptionGroup[Exception]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


def _verdict(results: Sequence[Result], problems: Sequence[tuple[str, NotRun]], took_s: float) -> str:
    """Of several scenarios: a line for each that is not as expected, and how many are."""
    lines = [
        f"{result.scenario}: {each.what}: FAILED"
        for result in results
        for each in result.judged
        if each.ok is False
    ]
    lines += [f"{name}: not run" for name, _ in problems]
    good = sum(result.ok for result in results)
    of = len(results) + len(problems)
    minutes, seconds = divmod(round(took_s), 60)
    lines.append(f"{good} of {of} scenarios came out as expected, in {minutes} min {seconds} s.")
    return "\n".join(lines)


def _told(result: Result) -> str:
    links = (
        f"emulated links ({result.topology})" if result.emulated else "plain loopback: links are not emulated"
    )
    load_average = " to ".join(f"{each:.1f}" for each in result.load_average)
    paced = ", ".join(f"{name} {ms}" for name, ms in result.paced_ms.items())
    kept = "" if result.paced_on_time is None else f", kept by {result.paced_on_time:.0%} of their steps"
    if result.paced_on_time is not None and result.paced_on_time < TOO_BUSY:
        kept += ": this machine was too busy for the times to mean much"
    return (
        f"{table(result.judged)}\n  over {links}; everyone knew everyone after {result.up_us / 1e6:.1f} s; "
        f"load average {load_average}; renderers paced to ms a step: {paced or 'none'}{kept}\n"
    )
