"""The nearest provider says that it is ten times faster than it is."""

from testnet import topology
from testnet.outcome import Expect, done, drawn_by
from testnet.scenario import Scenario, client, every, provider

SCENARIO = Scenario(
    about="The nearest provider claims 30 ms a step and takes 300; askers believe their own clocks.",
    topology=topology.regions(),
    peers=(
        provider("liar", "frankfurt", 300, claims_step_ms=30),
        provider("honest", "virginia", 60),
        client("asker", "frankfurt"),
    ),
    jobs=every(3.0, "asker", 8),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("drawn by the liar, after two pictures", drawn_by("liar", since_s=8), at_most=0.25),
    ),
)
