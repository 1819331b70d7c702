"""The only peer whose address everybody was given is killed."""

from testnet import topology
from testnet.outcome import Expect, done, know_each_other
from testnet.scenario import Kill, Scenario, at, client, every, provider

SCENARIO = Scenario(
    about="The bootstrap peer is killed; the others go on without it.",
    topology=topology.metro(),
    peers=(
        provider("a", "metro"),
        provider("b", "metro"),
        client("bootstrap", "metro"),
        client("asker", "metro"),
        client("other", "metro"),
    ),
    jobs=(*every(3.0, "asker", 4), *every(3.0, "other", 4, start_s=1.5)),
    events=(at(2, Kill("bootstrap")),),
    settle_s=2,
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect("pairs connected at the end", know_each_other(), at_least=1.0),
    ),
)
