"""Where hosts can be and what lies between: named topologies, and round-trip times read from a file.

A *place* is where hosts are: those at one place are `inner_rtt_us` apart; each has its own line to the rest.
"""

import csv
import math
import statistics
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from .link import Line, Path

KEY = "rtt_ms"
MAX_RTT_MS = 10_000.0  # the worst pair ever seen on PlanetLab had 7,893 in one of 18 slices
MAX_PLACES = 5_000
MAX_CSV_BYTES = 256 << 20

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


class BadTopology(Exception):
    """These distances cannot be used: which entry, and what would be right."""


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
    """Places "0", "1", ... at the round-trip times of an .npz file (key `rtt_ms`) or a CSV file, ms; BadTopology.

    Row a, column b is the round trip from a to b; the two directions may differ.  The diagonal is that of two hosts at
    one place (0 or NaN: `INNER_RTT_US`).  An unknown entry (NaN, or an empty field) takes the other direction's value,
    or, where that is unknown too, the median of the known ones.  Slices (3-D) are folded to their median.
    """
    try:
        matrix = _read_csv(path) if path.suffix.lower() == ".csv" else _read_npz(path)
    except OSError as exc:
        raise BadTopology(f"{path} cannot be read: {exc.strerror or exc}.") from exc
    return from_matrix(matrix, name=path.stem, where=str(path), line=line)


def from_matrix(matrix: Sequence[Sequence[float]], *, name: str, where: str, line: Line = FIBRE) -> Topology:
    """As `from_file`; `where` is told in the sentences of BadTopology."""
    count = len(matrix)
    if not 1 <= count <= MAX_PLACES:
        raise BadTopology(f"{where} has {count} rows; 1 to {MAX_PLACES} are possible, one for each place.")
    for index, row in enumerate(matrix):
        if len(row) != count:
            raise BadTopology(
                f"{where} is not square: row {index} has {len(row)} entries where {count} rows want {count}."
            )
        for column, value in enumerate(row):
            _check(value, f"{where}: the round trip from {index} to {column}")
    known = [v for a, row in enumerate(matrix) for b, v in enumerate(row) if a != b and not math.isnan(v)]
    if not known and count > 1:
        raise BadTopology(f"{where} knows no round trip between two places; at least one is needed.")
    middle_ms = statistics.median(known) if known else 0.0
    unknown = 0
    rtt_us = []
    for a, row in enumerate(matrix):
        line_us = []
        for b, value in enumerate(row):
            if a == b:
                line_us.append(round(value * 1000) if value > 0 else INNER_RTT_US)
                continue
            if math.isnan(value):
                unknown += 1
                value = middle_ms if math.isnan(matrix[b][a]) else matrix[b][a]
            line_us.append(round(value * 1000))
        rtt_us.append(tuple(line_us))
    notes = (f"{unknown} of {count * (count - 1)} round trips were unknown.",) if unknown else ()
    places = tuple(Place(str(index), line, line) for index in range(count))
    return Topology(name, places, tuple(rtt_us), jitter_share=JITTER_SHARE, notes=notes)


def _check(value: float, what: str) -> None:
    right = f"it must be 0 to {MAX_RTT_MS:.0f} ms, or NaN where it is not known"
    if math.isinf(value):
        raise BadTopology(f"{what} is infinite; {right}.")
    if value < 0:
        raise BadTopology(f"{what} is {value:g} ms, which is negative; {right}.")
    if value > MAX_RTT_MS:
        raise BadTopology(f"{what} is {value:g} ms; {right}. Are these microseconds?")


def _read_npz(path: FilePath) -> list[list[float]]:
    import numpy

    try:
        file = numpy.load(path, allow_pickle=False)
        if not isinstance(file, numpy.lib.npyio.NpzFile):
            raise BadTopology(f"{path} holds one array without a name; save it as an .npz file, key {KEY!r}.")
        with file:
            if KEY not in file.files:
                raise BadTopology(f"{path} has no array {KEY!r}: that is where round trips in ms must be.")
            array: Any = file[KEY]
    except (ValueError, zipfile.BadZipFile, EOFError) as exc:
        raise BadTopology(f"{path} is no .npz file of numbers: {exc}.") from exc
    if array.dtype.kind not in "fiu":
        raise BadTopology(f"{path}: {KEY} holds {array.dtype}, and must hold numbers.")
    if array.ndim not in (2, 3):
        shape = " x ".join(map(str, array.shape))
        raise BadTopology(f"{path}: {KEY} is {shape or 'one number'}; it must be N x N, or slices x N x N.")
    if array.ndim == 3:
        for index, each in enumerate(array.astype(float)):
            _check_slice(each, f"{path}, slice {index}")
        array = _median(array.astype(float))
    return [[float(value) for value in row] for row in array]


def _check_slice(array: Any, where: str) -> None:
    import numpy

    for what, wrong in (
        ("negative", array < 0),
        ("infinite", numpy.isinf(array)),
        ("absurd", array > MAX_RTT_MS),
    ):
        if wrong.any():
            a, b = map(int, numpy.argwhere(wrong)[0])
            _check(float(array[a, b]), f"{where}: the round trip from {a} to {b}")
            raise AssertionError(what)


def _median(slices: Any) -> Any:
    """Over the slices that know a pair; NaN where none does."""
    import numpy

    ordered = numpy.sort(slices, axis=0)  # NaN goes last
    known = numpy.sum(~numpy.isnan(slices), axis=0)
    low, high = numpy.maximum(known - 1, 0) // 2, known // 2
    take = numpy.take_along_axis
    middle = (
        take(ordered, low[None], 0)[0] / 2
        + take(ordered, numpy.minimum(high, len(slices) - 1)[None], 0)[0] / 2
    )
    return numpy.where(known == 0, math.nan, middle)


def _read_csv(path: FilePath) -> list[list[float]]:
    if path.stat().st_size > MAX_CSV_BYTES:
        raise BadTopology(f"{path} is larger than {MAX_CSV_BYTES} bytes; use an .npz file.")
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if row:
                    rows.append([_number(text, len(rows), b, path) for b, text in enumerate(row)])
    except (csv.Error, UnicodeDecodeError) as exc:
        raise BadTopology(f"{path} is no CSV file: {exc}.") from exc
    return rows


def _number(text: str, row: int, column: int, path: FilePath) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        shown = repr(text)[:40]
        raise BadTopology(
            f"{path}: row {row}, column {column} is {shown}; it must be a number of milliseconds, or empty."
        ) from None
