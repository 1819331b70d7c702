"""The best provider becomes ten times slower without a word."""

from testnet import topology
from testnet.outcome import Expect, done, drawn_by, quantile_ms
from testnet.scenario import Scenario, Slow, at, client, every, provider

SCENARIO = Scenario(
    about="The nearest provider becomes ten times slower; askers notice and go to the other.",
    topology=topology.one_far_peer(),
    peers=(provider("near", "here"), provider("far-gpu", "far"), client("asker", "here")),
    jobs=every(2.5, "asker", 10),
    events=(at(6, Slow("near", 600)),),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("drawn near, while it is quick", drawn_by("near", until_s=5), at_least=1.0, needs_links=True),
        Expect("drawn far, once it is known", drawn_by("far-gpu", since_s=17), at_least=0.75),
        Expect("slowest ms", quantile_ms(1.0), at_most=7_000),
    ),
)
