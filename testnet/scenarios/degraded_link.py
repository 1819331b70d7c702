"""The way to the nearest provider gets long and narrow while pictures are asked for."""

from testnet import topology
from testnet.link import Line
from testnet.outcome import Expect, attempts_lost, done, drawn_by, quantile_ms
from testnet.scenario import Degrade, Scenario, at, client, every, provider

SCENARIO = Scenario(
    about="The way to the nearest provider gets 400 ms longer and narrow; the asker notices and goes to the other.",
    topology=topology.regions(),
    peers=(
        provider("near", "frankfurt", 100),
        provider("far", "virginia", 100),
        client("asker", "frankfurt"),
    ),
    jobs=every(1.5, "asker", 12),
    events=(at(4, Degrade(("near",), more_delay_ms=200, up=Line(1_000_000))),),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("drawn near, before", drawn_by("near", until_s=4), at_least=1.0),
        Expect("drawn far, once it is known", drawn_by("far", since_s=9), at_least=0.6),
        Expect("slowest ms", quantile_ms(1.0), at_most=2_000),
        Expect("attempts that gave nothing", attempts_lost(), at_most=0),
    ),
)
