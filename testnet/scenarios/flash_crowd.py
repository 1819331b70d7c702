"""Everybody asks at once."""

from testnet import topology
from testnet.outcome import Expect, done, drawers, quantile_ms
from testnet.scenario import Job, Scenario, client, provider

CROWD = tuple(f"asker-{number}" for number in range(5))

SCENARIO = Scenario(
    about="Five peers ask for two pictures each in the same second; three providers share the work.",
    topology=topology.metro(),
    peers=(
        provider("a", "metro", 200),
        provider("b", "metro", 200),
        provider("c", "metro", 200),
        *(client(name, "metro") for name in CROWD),
    ),
    jobs=tuple(Job(name, at_s) for at_s in (0.0, 0.5) for name in CROWD),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("providers that drew", drawers(), at_least=3),
        Expect("slowest ms (perfectly shared: 4 rounds of 1.8 s)", quantile_ms(1.0), at_most=14_000),
    ),
)
