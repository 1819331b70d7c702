"""The provider that is drawing is killed: another one takes over."""

from testnet import topology
from testnet.outcome import Expect, done, most_attempts, recovery_ms
from testnet.scenario import ACTIVE, Job, Kill, Scenario, client, once_drawing, provider

SCENARIO = Scenario(
    about="The provider that is drawing is killed; another one takes over.",
    topology=topology.metro(),
    peers=(provider("a", "metro"), provider("b", "metro"), client("asker", "metro")),
    jobs=(Job("asker", steps=40),),
    events=(once_drawing(0, Kill(ACTIVE), after_s=0.5),),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("attempts", most_attempts(), at_least=2, at_most=2),
        Expect("ms until another provider draws", recovery_ms(), at_most=1_000),
    ),
)
