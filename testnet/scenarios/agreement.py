"""Twelve peers over five continents, in bursts: what `python -m testnet agree` compares the simulation with."""

from testnet import topology
from testnet.outcome import Expect, done
from testnet.scenario import Job, Scenario, client, provider

GPUS = {
    "virginia": (400, 640),
    "oregon": (520,),
    "frankfurt": (440, 800),
    "tokyo": (480,),
    "sydney": (600,),
    "saopaulo": (720,),
}  # ms a step: so long that a busy core, where each takes 100 ms, keeps the pace
ASKERS = ("virginia", "frankfurt", "tokyo", "sydney")
GAPS_S = (1.5, 9.0)  # in turn: each asker's second picture finds the best peer at work on its first
PICTURES = 12  # of each asker
APART_S = 2.6  # between the beginnings of two askers

SCENARIO = Scenario(
    about="Eight providers of eight speeds in six regions, four people who ask in bursts.",
    topology=topology.regions(),
    peers=(
        *(
            provider(f"{place}-gpu-{step_ms}", place, step_ms)
            for place, speeds in GPUS.items()
            for step_ms in speeds
        ),
        *(client(f"{place}-asker", place) for place in ASKERS),
    ),
    jobs=tuple(
        Job(
            f"{place}-asker",
            number * APART_S + (picture // 2) * sum(GAPS_S) + (picture % 2) * GAPS_S[0],
        )
        for number, place in enumerate(ASKERS)
        for picture in range(PICTURES)
    ),
    expects=(Expect("pictures drawn", done(), at_least=1.0),),
)
