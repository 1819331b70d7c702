"""The flags of scripts/bench, read with the standard library only."""

import argparse

RUNS = 7
MIN_RUNS = 5  # a median of fewer says little
NAMES = {
    "overhead": "a warm job of another peer against the direct call of the same pipeline, in turn",
    "reference": "how long the model that ships takes on one thread, called directly",
    "preview": "when the first preview arrives",
    "transfer": "small messages beside 64 MB on one connection, paced and unpaced in turn",
    "virtual_transfer": "the share of a long path, in virtual time",
    "plan": "choosing among 100 and 1,000 peers",
    "idle": "what an idle peer costs",
    "idle_many": "the same among fifty: some ten minutes, 5 GB of memory",
    "contact": "what a ping, a state told unasked and a connection take",
    "swarm": "how soon five peers know each other",
    "selection": "how often the nearest of equal idle peers is chosen",
    "links": "emulated links: delay asked and seen, one flow, and what the router takes (needs root)",
    "up": "how soon twelve peers over emulated links know each other (needs root)",
    "witness": "timelines against the record of packets (needs root)",
    "agreement": "the same scenario simulated and with real peers (needs root)",
    "simulation": "how long a hundred thousand requests take in virtual time",
    "broker": "peers against a central broker, in turn (needs root)",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures the numbers that Nearlight holds itself to, on this machine. Ratios come from one "
        "run in which both sides take turns; the load average stands beside each figure. Exit code 1 where a "
        "number is missed.",
        epilog="\n".join(f"  {name:<17} {what}" for name, what in NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help="these benchmarks, not all")
    parser.add_argument(
        "--runs", type=int, default=RUNS, metavar="N", help=f"of which the median is taken ({RUNS})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args(arguments)
    if options.runs < MIN_RUNS:
        parser.error(f"--runs must be at least {MIN_RUNS}, not {options.runs}.")
    return options
