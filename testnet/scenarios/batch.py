"""A batch of 32 over three providers whose speeds are as 4 to 2 to 1."""

from testnet import topology
from testnet.outcome import Expect, done, of_ideal, quantile_ms
from testnet.scenario import Job, Scenario, client, provider

COUNT = 32
STEP_MS = {"fast": 300, "middling": 600, "slow": 1_200}

SCENARIO = Scenario(
    about="A batch of 32 pictures over three providers whose speeds are as 4 to 2 to 1.",
    topology=topology.metro(),
    peers=(
        *(provider(name, "metro", step_ms) for name, step_ms in STEP_MS.items()),
        client("asker", "metro"),
    ),
    jobs=(Job("asker", count=COUNT, within_s=120.0),),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("ideal makespan by the providers' own steps / makespan", of_ideal(*STEP_MS), at_least=0.9),
        Expect("makespan ms", quantile_ms(1.0), at_most=60_000),
    ),
)
