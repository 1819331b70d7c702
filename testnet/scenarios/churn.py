"""Providers come and go while pictures are asked for."""

from testnet import topology
from testnet.outcome import Expect, done, living, quantile_ms
from testnet.scenario import Scenario, churn, client, every, provider


def scenario(seed: int) -> Scenario:
    coming_and_going = ("b", "c", "d")
    return Scenario(
        about="Three of four providers are killed and started again, at random, while pictures are asked for.",
        topology=topology.metro(),
        peers=(
            provider("a", "metro", 90),
            provider("b", "metro"),
            *(provider(name, "metro", warm=False) for name in ("c", "d")),
            client("asker", "metro"),
            client("other", "metro"),
        ),
        jobs=(*every(3.0, "asker", 7), *every(3.0, "other", 7, start_s=1.5)),
        events=churn(coming_and_going, seed=seed, from_s=1, until_s=16, up_s=8, down_s=3),
        settle_s=1,
        expects=(
            Expect("pictures drawn", done(), at_least=1.0),
            Expect("ms, 19 of 20", quantile_ms(0.95), at_most=6_000),
            Expect("peers alive at the end", living(), at_least=6),
        ),
    )
