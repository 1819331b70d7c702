"""The same pictures, asked of peers and of a central broker in turn."""

from testnet import topology
from testnet.outcome import Expect, done, quantile_ms, ratio
from testnet.scenario import Job, Scenario, Via, client, provider

TURNS: tuple[Via, ...] = ("peer", "direct", "relayed")

SCENARIO = Scenario(
    about="The same pictures asked of peers and of a central broker in Virginia, in turn, in Frankfurt.",
    topology=topology.regions(),
    broker="virginia",
    peers=(
        # Three: with two, every picture that is relayed would come from the same worker.
        *(provider(f"{place}-gpu", place) for place in ("frankfurt", "tokyo", "virginia")),
        client("asker", "frankfurt"),
    ),
    jobs=tuple(
        Job("asker", at_s=2.0 * (3 * number + turn), via=via)
        for number in range(6)
        for turn, via in enumerate(TURNS)
    ),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        *(Expect(f"median ms, {via}", quantile_ms(0.5, via=via), at_most=5_000) for via in TURNS),
        Expect(
            "peers / broker, direct",
            ratio(quantile_ms(0.5, via="peer"), quantile_ms(0.5, via="direct")),
            at_most=1.1,  # it encrypts, signs and checks; the broker does not
        ),
        Expect(
            "peers / broker, relayed",
            ratio(quantile_ms(0.5, via="peer"), quantile_ms(0.5, via="relayed")),
            at_most=1.0,
        ),
    ),
)
