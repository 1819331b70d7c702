"""Where hosts can be and what lies between: named topologies, and round-trip times read from a file.

A *place* is where hosts are: those at one place are `inner_rtt_us` apart; each has its own line to the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

import numpy

from .link import Line, Path
from .rtt_matrix import load

LAN_RTT_US = 300
METRO_RTT_US = 4_000
INNER_RTT_US = 600  # two machines of one data centre or campus
JITTER_SHARE = 0.01  # of the one-way delay: what quiet Internet paths show between their quartiles

# Round trips between data centres, ms, as cloud operators publish them; rounded.
REGIONS = ("virginia", "oregon", "frankfurt", "tokyo", "sydney", "saopaulo")
_REGIONS_RTT_MS = (
    (0.6, 67, 90, 157, 200, 115),
    (67, 0.6, 147, 97, 140, 177),
    (90, 147, 0.6, 226, 285, 203),
    (157, 97, 226, 0.6, 105, 256),
    (200, 140, 285, 105, 0.6, 310),
    (115, 177, 203, 256, 310, 0.6),
)
HOME_UP_BITS_S, HOME_DOWN_BITS_S = 20_000_000, 100_000_000  # cable and DSL: a fifth up
HOME_RTT_US = 24_000  # between two homes of one country
FIBRE = Line(100_000_000)
UNLIMITED = Line()
FAR_RTT_US = 280_000


@dataclass(frozen=True)
class Place:
    name: str
    up: Line = UNLIMITED
    down: Line = UNLIMITED


@dataclass(frozen=True)
class Topology:
    """`rtt_us[a][b]` between hosts at the places a and b, halved for each way; `notes` say what was not known.

    `paths` overrides single directions, by the names of the places.  ValueError for what cannot be.
    """

    name: str
    places: tuple[Place, ...]
    rtt_us: tuple[tuple[int, ...], ...]
    jitter_share: float = 0.0
    loss_millionths: int = 0
    paths: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.places)
        if not count or len({place.name for place in self.places}) != count:
            raise ValueError("a topology has places, each with a name of its own")
        if len(self.rtt_us) != count or any(len(row) != count for row in self.rtt_us):
            raise ValueError(f"{count} places have {count} x {count} round-trip times")
        if unknown := {name for pair in self.paths for name in pair} - {place.name for place in self.places}:
            raise ValueError(f"paths name places that are not there: {', '.join(sorted(unknown))}")

    def place(self, name: str) -> Place:
        """KeyError with a sentence."""
        for place in self.places:
            if place.name == name:
                return place
        names = ", ".join(place.name for place in self.places[:12])
        raise KeyError(f"The topology {self.name} has no place {name!r}; it has {names}.")

    def path(self, source: str, destination: str) -> Path:
        """From a host at one place to a host at another, or at the same."""
        if (path := self.paths.get((source, destination))) is not None:
            return path
        index = {place.name: number for number, place in enumerate(self.places)}
        delay_us = self.rtt_us[index[source]][index[destination]] // 2
        return Path(delay_us, round(delay_us * self.jitter_share), self.loss_millionths)

    def with_path(self, source: str, destination: str, path: Path) -> "Topology":
        return replace(self, paths={**self.paths, (source, destination): path})


def lan() -> Topology:
    """One gigabit segment."""
    return _single("lan", LAN_RTT_US, Line(1_000_000_000))


def metro() -> Topology:
    """One town: fibre lines, a few milliseconds."""
    return _single("metro", METRO_RTT_US, FIBRE, jitter_share=JITTER_SHARE)


def regions() -> Topology:
    """Six data-centre regions on five continents."""
    rtt_us = tuple(tuple(round(ms * 1000) for ms in row) for row in _REGIONS_RTT_MS)
    places = tuple(Place(name, FIBRE, FIBRE) for name in REGIONS)
    return Topology("regions", places, rtt_us, jitter_share=JITTER_SHARE)


def home_uplinks() -> Topology:
    """Homes with lines of a fifth up, and one data centre beside them."""
    home = Place("home", Line(HOME_UP_BITS_S), Line(HOME_DOWN_BITS_S))
    centre = Place("datacentre", FIBRE, FIBRE)
    half = HOME_RTT_US // 2
    rtt_us = ((HOME_RTT_US, half), (half, INNER_RTT_US))
    return Topology(
        "home-uplinks", (home, centre), rtt_us, jitter_share=5 * JITTER_SHARE, loss_millionths=500
    )


def one_far_peer() -> Topology:
    """Everybody here, and one place at the other end of the world."""
    places = (Place("here", FIBRE, FIBRE), Place("far", FIBRE, FIBRE))
    rtt_us = ((METRO_RTT_US, FAR_RTT_US), (FAR_RTT_US, INNER_RTT_US))
    return Topology("one-far-peer", places, rtt_us, jitter_share=JITTER_SHARE)


def uniform(rtt_us: int, rate_bits_s: int | None = None, *, loss_millionths: int = 0) -> Topology:
    """Every two hosts equally far from each other; the place is called "there"."""
    line = Line(rate_bits_s)
    return Topology(
        f"uniform-{rtt_us}us",
        (Place("there", line, line),),
        ((rtt_us,),),
        loss_millionths=loss_millionths,
    )


def _single(name: str, rtt_us: int, line: Line, *, jitter_share: float = 0.0) -> Topology:
    return Topology(name, (Place(name, line, line),), ((rtt_us,),), jitter_share=jitter_share)


NAMED: dict[str, Callable[[], Topology]] = {
    "lan": lan,
    "metro": metro,
    "regions": regions,
    "home-uplinks": home_uplinks,
    "one-far-peer": one_far_peer,
}


# from a file


def from_file(path: FilePath, *, line: Line = FIBRE) -> Topology:
    """Places "0", "1", ... at the round-trip times, ms, of an .npz file (key `rtt_ms`) or a CSV file; BadMatrix.

    Row a, column b is the round trip from a to b; the two directions may differ.  What is unknown (NaN, or an empty
    field) is as long as the other direction, else as the shortest way over a third place; slices are folded to
    their median (rtt_matrix.py).
    """
    matrix = load(path)
    rtt_us = matrix.median_us.copy()
    numpy.fill_diagonal(rtt_us, INNER_RTT_US)
    unknown = matrix.estimated
    notes = (f"{unknown} round trips were not known: ways over a third place.",) if unknown else ()
    places = tuple(Place(str(index), line, line) for index in range(matrix.places))
    rows = tuple(tuple(row) for row in rtt_us.tolist())
    return Topology(path.stem, places, rows, jitter_share=JITTER_SHARE, notes=notes)
