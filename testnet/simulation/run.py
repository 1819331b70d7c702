"""One policy in one world, from the first request to the last answer."""

from collections.abc import Callable
from random import Random
from typing import Protocol

from . import baselines
from .clock import Clock
from .costs import Costs
from .nearlight import Nearlight
from .outcome import Ledger, Result
from .world import World

PATIENCE_US = 400_000_000  # after the last request
TOLD_EVERY_US = 1_000_000


class Policy(Protocol):
    def ask(self, request: int) -> None:
        """The request of that number is made now."""


PRODUCT, ORACLE = "nearlight", "oracle"
POLICIES: dict[str, Callable[[World, Clock, Costs, Ledger, Random], Policy]] = {
    PRODUCT: Nearlight,
    "random": baselines.RandomWarm,
    "nearest": baselines.NearestWarm,
    "least-loaded": baselines.LeastLoaded,
    "two-choices": baselines.TwoChoices,
    "peak-ewma": baselines.PeakEwma,
    "prequal": baselines.Prequal,
    "broker-direct": baselines.BrokerDirect,
    "broker-relayed": baselines.BrokerRelayed,
    ORACLE: baselines.Oracle,
}


def run(world: World, policy: str, on_progress: Callable[[float], None] | None = None) -> Result:
    """`policy`: a name of POLICIES.  `on_progress` is told the share of requests that were made, now and then."""
    return run_to_ledger(world, policy, on_progress)[1]


def run_to_ledger(
    world: World, policy: str, on_progress: Callable[[float], None] | None = None
) -> tuple[Ledger, Result]:
    clock, costs, ledger = Clock(), Costs(), Ledger(world)
    # Its own dice: what one policy draws changes nothing for another.
    asking = POLICIES[policy](world, clock, costs, ledger, Random(f"{world.seed} {policy}"))
    requests = world.requests

    def ask(request: int) -> None:
        if request + 1 < len(requests):
            clock.at(requests.at_us[request + 1], ask, request + 1)
        asking.ask(request)

    def tell() -> None:
        if on_progress is not None:
            on_progress(min(1.0, clock.now_us / max(1, requests.at_us[-1])))
            clock.at(clock.now_us + TOLD_EVERY_US, tell)

    for at_us, change in world.changes:
        clock.at(at_us, change)
    clock.at(requests.at_us[0], ask, 0)
    tell()
    clock.run(lambda: ledger.left == 0, requests.at_us[-1] + PATIENCE_US)
    return ledger, ledger.result(costs)
