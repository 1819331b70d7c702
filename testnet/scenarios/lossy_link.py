"""Two askers as far from their providers; on the way of one, packets are lost and late."""

from testnet import topology
from testnet.link import Path
from testnet.outcome import Expect, attempts_lost, done, drawn_by, quantile_ms, ratio
from testnet.scenario import Scenario, client, every, provider
from testnet.topology import FIBRE, Place, Topology

WAYS = ("clean", "lossy")
DELAY_US, JITTER_US, LOSS_MILLIONTHS = (
    50_000,
    15_000,
    10_000,
)  # each way: 100 +- 30 ms there and back, 1 % lost
FAR_RTT_US = 400_000  # so that nobody goes to the other one's provider


def _topology() -> Topology:
    places = tuple(Place(f"{way}-{end}", FIBRE, FIBRE) for way in WAYS for end in ("asker", "gpu"))
    rtt_us = tuple(
        tuple(topology.INNER_RTT_US if a == b else FAR_RTT_US for b in range(len(places)))
        for a in range(len(places))
    )
    found = Topology("two-ways", places, rtt_us)
    for way, path in (
        ("clean", Path(DELAY_US)),
        ("lossy", Path(DELAY_US - JITTER_US, JITTER_US * 2, LOSS_MILLIONTHS)),
    ):
        found = found.with_path(f"{way}-asker", f"{way}-gpu", path)
        found = found.with_path(f"{way}-gpu", f"{way}-asker", path)
    return found


SCENARIO = Scenario(
    about="Of two equal ways, 100 ms there and back, one loses 1 % of the packets and is 30 ms longer or shorter.",
    topology=_topology(),
    peers=(
        *(provider(f"{way}-gpu", f"{way}-gpu") for way in WAYS),
        *(client(f"{way}-asker", f"{way}-asker") for way in WAYS),
    ),
    jobs=tuple(
        job for number, way in enumerate(WAYS) for job in every(2.4, f"{way}-asker", 20, start_s=1.2 * number)
    ),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        *(
            Expect(f"drawn over the {way} way", drawn_by(f"{way}-gpu", by=f"{way}-asker"), at_least=1.0)
            for way in WAYS
        ),
        Expect("attempts that gave nothing", attempts_lost(), at_most=0),
        Expect(
            "p95, lossy over clean",
            ratio(quantile_ms(0.95, by="lossy-asker"), quantile_ms(0.95, by="clean-asker")),
            at_most=1.5,
            needs_links=True,
        ),
    ),
)
