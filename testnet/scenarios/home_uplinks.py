"""Providers at home, behind lines of 20 Mbit/s up, 24 ms apart, losing 1 packet in 2,000."""

from testnet import topology
from testnet.outcome import Expect, done, prediction_error, quantile_ms, unaccounted_share
from testnet.scenario import Job, Scenario, client, provider

SCENARIO = Scenario(
    about="Providers and askers at home, behind lines that are a fifth up.",
    topology=topology.home_uplinks(),
    peers=(
        provider("home-a", "home", 200),
        provider("home-b", "home", 200),
        client("asker", "home"),
        client("office", "datacentre"),
    ),
    jobs=tuple(
        Job(name, 3.0 * number + start_s, steps=6, size_px=128)
        for name, start_s in (("asker", 0.0), ("office", 1.5))
        for number in range(6)
    ),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("median ms (6 steps of 200 ms)", quantile_ms(0.5), at_most=1_800),
        Expect("slowest ms", quantile_ms(1.0), at_most=2_500),
        Expect("time nobody can explain", unaccounted_share(), at_most=0.02),
        Expect("median error of the prediction", prediction_error(0.5), at_most=0.25),
    ),
)
