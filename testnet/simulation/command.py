"""`python -m testnet simulate`: policies compared in the same worlds, seed by seed."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..failed import WRONG_USAGE, failed
from ..rtt_matrix import BadMatrix, RttMatrix, load, sphere
from .outcome import CDF_SHARES, LINK_NAMES, Result
from .run import ORACLE, POLICIES, PRODUCT, run
from .world import BadWorld, World, WorldConfig

SPHERE_PLACES = 490  # more peers than these share places
DEFAULTS = WorldConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def number(name: str, kind: Callable[[str], Any], metavar: str, what: str) -> None:
        field = name.removeprefix("--").replace("-", "_")
        default = getattr(DEFAULTS, field)
        shown = "" if default is None else f" ({default})"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=what + shown)

    parser.add_argument(
        "--rtt",
        type=Path,
        metavar="FILE",
        help="an .npz with rtt_ms, N x N or slices x N x N, or a CSV file; NaN is unknown (places on a sphere)",
    )
    number("--peers", int, "N", "how many provide")
    number("--requesters", int, "N", "how many ask")
    number("--load", float, "SHARE", "of what all providers can render, warm")
    number("--duration-s", float, "S", "how long they ask")
    number("--requests", int, "N", "how many pictures are asked for, instead of a duration")
    number(
        "--trace",
        Path,
        "FILE",
        "JSON lines of at_s, and maybe requester, model and steps, instead of Poisson arrivals",
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="one world each (1)"
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        choices=[*POLICIES, "all"],
        default=["all"],
        metavar="P",
        help=f"of {', '.join(POLICIES)} (all); {ORACLE} runs always, for the ratios",
    )
    number("--models", int, "N", "how many models, asked for by Zipf's law")
    number("--warm-slots", int, "N", "models that a provider holds in memory")
    low_s, high_s = DEFAULTS.cold_s
    told = f"to load a model ({low_s:g} {high_s:g})"
    parser.add_argument("--cold-s", type=float, nargs=2, default=DEFAULTS.cold_s, metavar="S", help=told)
    number("--state-every-s", float, "S", "live state to those who are active, of the baselines")
    number("--known", int, "N", "providers that one requester keeps measured, of the baselines")
    number("--jitter", float, "SHARE", "of each round trip, beside that between slices")
    number("--hiccup-share", float, "SHARE", "of runs that are slower by a factor")
    number("--hiccup-factor", float, "F", "by which")
    number("--churn-per-min", float, "SHARE", "of the providers leave in a minute, and come back")
    number("--away-s", float, "S", "for so long, at the mean")
    number("--silent", float, "SHARE", "of the providers answer pings and never an offer")
    number("--lying", float, "SHARE", "of the providers say they are faster, idle and warm")
    parser.add_argument("--json", action="store_true", help="print one JSON object, on the last line")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0, not {text!r}")
    return int(text)


def simulate(options: argparse.Namespace) -> int:
    """Exit code: 0, or 2 with a sentence on stderr where the matrix or the world cannot be."""
    try:
        config = _config(options)
        matrix = load(options.rtt) if options.rtt else None
        summary = _compare(options, config, matrix)
    except (BadMatrix, BadWorld) as exc:
        return failed(str(exc), WRONG_USAGE, as_json=options.json)
    if options.json:
        print(json.dumps(summary, sort_keys=True), flush=True)
    else:
        _show(summary)
    return 0


def _config(options: argparse.Namespace) -> WorldConfig:
    values = {field.name: getattr(options, field.name) for field in fields(WorldConfig)}
    values["cold_s"] = tuple(options.cold_s)
    return WorldConfig(**values)


@dataclass(frozen=True)
class _Pair:
    result: Result
    oracle: Result


def _compare(options: argparse.Namespace, config: WorldConfig, matrix: RttMatrix | None) -> dict[str, Any]:
    wanted = list(POLICIES) if "all" in options.policy else options.policy
    policies = [name for name in POLICIES if name in wanted and name != ORACLE]
    found: dict[str, list[_Pair]] = {name: [] for name in [*policies, ORACLE]}
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for seed in options.seeds:
            world = World(config, matrix or sphere(SPHERE_PLACES, seed), seed)

            def one(name: str, world: World = world, seed: int = seed) -> Result:
                task = progress.add_task(f"seed {seed}: {name}", total=1.0)
                result = run(world, name, lambda share: progress.update(task, completed=share))
                progress.remove_task(task)
                return result

            oracle = one(ORACLE)
            found[ORACLE].append(_Pair(oracle, oracle))
            for name in policies:
                found[name].append(_Pair(one(name), oracle))
    return {
        "policies": {name: _means(pairs) for name, pairs in found.items()},
        "world": _world(options, config, matrix),
    }


def _world(options: argparse.Namespace, config: WorldConfig, matrix: RttMatrix | None) -> dict[str, Any]:
    values: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(config)}
    values["trace"] = str(config.trace) if config.trace else None
    values["rtt"] = str(options.rtt) if options.rtt else "sphere"
    values["estimated_pairs"] = matrix.estimated if matrix else 0
    values["seeds"] = options.seeds
    return values


def _means(pairs: list[_Pair]) -> dict[str, Any]:
    """Over the seeds; the counts are sums, and `unfinished` of all requests."""
    results = [pair.result for pair in pairs]

    def mean(name: str) -> float:
        return round(fmean(getattr(result, name) for result in results), 6)

    ratios = {
        "ratio_p50": [pair.result.p50_s / pair.oracle.p50_s for pair in pairs],
        "ratio_p95": [pair.result.p95_s / pair.oracle.p95_s for pair in pairs],
    }
    parts = ("where_s", "calibration", "control")
    curves = ("cdf_s", "cdf_by_link_s")
    links = [name for name in LINK_NAMES if any(name in result.cdf_by_link_s for result in results)]
    return {
        **{
            field.name: mean(field.name)
            for field in fields(Result)
            if field.name not in (*parts, *curves, "unfinished", "requests")
        },
        **{name: round(fmean(each), 4) for name, each in ratios.items()},
        "ratio_p50_by_seed": [round(each, 4) for each in ratios["ratio_p50"]],
        "ratio_p95_by_seed": [round(each, 4) for each in ratios["ratio_p95"]],
        "unfinished": sum(result.unfinished for result in results),
        "requests": sum(result.requests for result in results),
        "cdf": _cdf([result.cdf_s for result in results]),
        "cdf_by_link": {
            name: _cdf([result.cdf_by_link_s[name] for result in results if name in result.cdf_by_link_s])
            for name in links
        },
        **{
            part: {
                name: round(fmean(getattr(result, part)[name] for result in results), 6)
                for name in getattr(results[0], part)
            }
            for part in parts
        },
    }


def _cdf(curves: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Within how many seconds each share of the requests was answered: means over the seeds."""
    return {
        "share": list(CDF_SHARES),
        "seconds": [round(fmean(each), 6) for each in zip(*curves, strict=True)],
    }


def _show(summary: dict[str, Any]) -> None:
    world, console = summary["world"], Console()
    title = f"{world['peers']} providers, load {world['load']:g}, seeds {_listed(world['seeds'])}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("", "p50 s", "p95 s", "p99 s", "of oracle", "refused", "messages", "wasted", "open"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, values in summary["policies"].items():
        table.add_row(
            name,
            *(f"{values[key]:.3g}" for key in ("p50_s", "p95_s", "p99_s")),
            f"{values['ratio_p50']:.2f} {values['ratio_p95']:.2f}",
            f"{values['refusals_per_request']:.2f}",
            f"{values['messages_per_request']:.0f}",
            f"{100 * values['wasted_fraction']:.1f} %",
            str(values["unfinished"]),
            style="bold" if name == PRODUCT else "",
        )
    console.print(table)
    product = summary["policies"].get(PRODUCT)
    if product:
        spans = ", ".join(f"{name} {seconds:.3f}" for name, seconds in product["where_s"].items())
        held = product["calibration"]
        console.print(
            f"{PRODUCT}, predictions: {100 * held['within_p50']:.1f} % came within their p50, "
            f"{100 * held['within_p90']:.1f} % within their p90; pinball loss of the p90 {1e3 * held['loss_s']:.0f} ms,"
            f" of the providers' claims {1e3 * held['claims_loss_s']:.0f} ms, of those and the ways to them as they"
            f" were measured {1e3 * held['claims_and_ways_loss_s']:.0f} ms"
        )
        control = product["control"]
        console.print(f"{PRODUCT}, where the time went (mean s): {spans}")
        shown = ", ".join(
            f"{what} {control[f'{name}_bytes_per_s'] / 1e3:.1f} kB/s and {100 * control[f'{name}_cpu_share']:.2f} %"
            for name, what in (
                ("idle", "idle"),
                ("active", "asking"),
                ("asked", "asked at the mean"),
                ("asked_most", "asked most"),
            )
        )
        console.print(f"{PRODUCT}, control traffic of a peer, and of a core: {shown}")


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
