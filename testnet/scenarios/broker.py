"""The same pictures, asked of peers and of a central broker in turn."""

from testnet import topology
from testnet.outcome import Expect, done, quantile_ms, ratio
from testnet.scenario import Job, Scenario, Via, client, provider

TURNS: tuple[Via, ...] = ("peer", "direct", "relayed")
ASKERS = ("frankfurt-asker", "tokyo-asker")

SCENARIO = Scenario(
    about="The same pictures asked of peers and of a central broker in Virginia, in turn, by two askers far from it.",
    topology=topology.regions(),
    broker="virginia",
    peers=(
        provider("frankfurt-gpu", "frankfurt"),
        provider("tokyo-gpu", "tokyo"),
        *(client(name, name.removesuffix("-asker")) for name in ASKERS),
    ),
    jobs=tuple(
        Job(name, at_s=3.0 * (3 * number + turn) + 1.5 * ASKERS.index(name), via=via)
        for name in ASKERS
        for number in range(5)
        for turn, via in enumerate(TURNS)
    ),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        *(Expect(f"median ms, {via}", quantile_ms(0.5, via=via), at_most=5_000) for via in TURNS),
        Expect(
            "peers / broker, direct",
            ratio(quantile_ms(0.5, via="peer"), quantile_ms(0.5, via="direct")),
            at_most=1.0,
        ),
        Expect(
            "peers / broker, relayed",
            ratio(quantile_ms(0.5, via="peer"), quantile_ms(0.5, via="relayed")),
            at_most=1.0,
        ),
    ),
)
