"""Twelve peers over five continents, in bursts: what `python -m testnet agree` compares the simulation with."""

from testnet import topology
from testnet.outcome import Drawn, Expect, Outcome, busy_s, done, near_best
from testnet.scenario import STEPS, Job, Scenario, client, provider

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

PROVIDERS = {
    f"{place}-gpu-{step_ms}": (place, step_ms) for place, speeds in GPUS.items() for step_ms in speeds
}
FIXED_MS = 150  # encoding and decoding on a busy core, alike for all
LINKS = topology.regions()


def took_ms(outcome: Outcome, job: Drawn, name: str) -> float:
    """The queue as it turned out, the steps, the offer's way there and the picture's way back."""
    place, step_ms = PROVIDERS[name]
    here = job.by.removesuffix("-asker")
    way_us = LINKS.path(here, place).delay_us + LINKS.path(place, here).delay_us
    return busy_s(outcome, name, job) * 1000 + STEPS * step_ms + FIXED_MS + way_us / 1000


SCENARIO = Scenario(
    about="Eight providers of eight speeds in six regions, four people who ask in bursts.",
    topology=LINKS,
    peers=(
        *(provider(name, place, step_ms) for name, (place, step_ms) in PROVIDERS.items()),
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
    expects=(
        Expect("pictures drawn", done(), at_least=1.0),
        Expect(
            "drawn within 25 % of the best in hindsight",
            near_best(took_ms, PROVIDERS, percent=25),
            at_least=0.9,
            needs_links=True,
        ),
    ),
)
