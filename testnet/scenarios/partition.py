"""The network falls in two and grows together again."""

from testnet import topology
from testnet.outcome import Expect, done, drawn_by, know_each_other
from testnet.scenario import Heal, Job, Partition, Scenario, at, client, provider

WEST, EAST = ("west-gpu", "west-asker"), ("east-gpu", "east-asker")

SCENARIO = Scenario(
    about="The network falls in two for twenty seconds; each half goes on, and afterwards all know each other again.",
    topology=topology.regions(),
    peers=(
        # So slow that the east is sooner even where its steps take the 95 ms that a busy machine was seen to need for them.
        provider("west-gpu", "oregon", 240),
        provider("east-gpu", "frankfurt", 30),
        client("west-asker", "oregon"),
        client("east-asker", "frankfurt"),
    ),
    jobs=(
        *(Job(name, at_s) for name in ("west-asker", "east-asker") for at_s in (0.0, 9.0, 17.0)),
        *(Job(name, 24.0) for name in ("west-asker", "east-asker")),
    ),
    events=(at(6, Partition((WEST, EAST))), at(23, Heal())),
    settle_s=15,
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect(
            "west drawn in the east before", drawn_by("east-gpu", by="west-asker", until_s=6), at_least=1.0
        ),
        Expect(
            "west drawn in the west meanwhile",
            drawn_by("west-gpu", by="west-asker", since_s=6, until_s=23),
            at_least=1.0,
        ),
        Expect("pairs connected at the end", know_each_other(), at_least=1.0),
    ),
)
