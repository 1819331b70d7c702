"""The provider that is drawing freezes: its connections stay, and nothing comes over them."""

from testnet import topology
from testnet.outcome import Expect, done, most_attempts, recovery_ms
from testnet.scenario import ACTIVE, Freeze, Job, Scenario, Thaw, at, client, once_drawing, provider

SCENARIO = Scenario(
    about="The provider that is drawing freezes; the silence is noticed, and another one takes over.",
    topology=topology.metro(),
    peers=(provider("a", "metro"), provider("b", "metro"), client("asker", "metro")),
    jobs=(Job("asker", steps=40),),
    events=(once_drawing(0, Freeze(ACTIVE), after_s=0.5), at(10, Thaw("a")), at(10, Thaw("b"))),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("attempts", most_attempts(), at_least=2, at_most=2),
        Expect("ms until another provider draws", recovery_ms(), at_most=1_500),
    ),
)
