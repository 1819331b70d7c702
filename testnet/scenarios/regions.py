"""People in three regions, equal providers beside them: the nearest one draws."""

from testnet import topology
from testnet.outcome import Expect, attempts_lost, done, drawn_by, quantile_ms, unaccounted_share
from testnet.scenario import Scenario, client, every, provider

PLACES = ("virginia", "frankfurt", "tokyo")

SCENARIO = Scenario(
    about="People in three regions, equal providers beside each: the nearest one draws.",
    topology=topology.regions(),
    peers=(
        *(provider(f"{place}-gpu", place) for place in PLACES),
        *(client(f"{place}-asker", place) for place in PLACES),
    ),
    jobs=tuple(
        job
        for number, place in enumerate(PLACES)
        for job in every(3.0, f"{place}-asker", 4, start_s=number * 1.0)
    ),
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        *(
            Expect(
                f"drawn in {place}",
                drawn_by(f"{place}-gpu", by=f"{place}-asker"),
                at_least=0.95,
                needs_links=True,
            )
            for place in PLACES
        ),
        Expect("attempts that gave nothing", attempts_lost(), at_most=0),
        Expect("median ms (8 steps of 60 ms)", quantile_ms(0.5), at_most=900),
        Expect("time nobody can explain", unaccounted_share(), at_most=0.02),
    ),
)
