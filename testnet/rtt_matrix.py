"""Round-trip times between places: read from a file and checked, or drawn on a sphere."""

import csv
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "rtt_ms"
MAX_PLACES = 8192  # a median matrix of 0.5 GiB
MAX_ENTRIES = 200_000_000  # over all slices: 1.6 GB while it is checked
MAX_ARRAY_BYTES = 8 * MAX_ENTRIES + 65_536  # of float64, with the header
MAX_CSV_BYTES = 256 << 20
MAX_RTT_MS = 60_000.0  # nothing that answers after a minute is a measured path
LEAST_RTT_US = 300  # two peers in one place: a local network
RATIO_BOUNDS = (0.8, 4.0)  # of one slice to the median: beyond it, a measurement failed rather than jittered

# The sphere: 1 ms of RTT for 100 km of fibre, times how much longer the way is than the great circle.
EARTH_RADIUS_KM = 6371.0
KM_PER_RTT_MS = 100.0
STRETCH_P10_P50_P90 = (1.5, 2.1, 4.1)  # measured over 490 hosts
REGIONS = 24
REGION_RADIUS_KM = 400.0
ACCESS_MS = (0.5, 3.0)  # each place's own line: least, and the mean of what comes on top
_P90_DEVIATIONS = 1.2815515655446004  # of the normal distribution


class BadMatrix(Exception):
    """The file is no matrix of round-trip times; the sentence names the entry that is wrong."""


@dataclass(frozen=True)
class RttMatrix:
    """Round trips between `places`; symmetric only as far as the file is."""

    median_us: NDArray[np.int64]  # (places, places); zero on the diagonal, else at least LEAST_RTT_US
    ratio: NDArray[np.float32] | None  # (slices, places, places): each slice over the median; None: one slice
    estimated: (
        int  # pairs that the file knows in no direction: as long as the shortest way over a third place
    )

    @property
    def places(self) -> int:
        return len(self.median_us)


def load(path: Path) -> RttMatrix:
    """`path`: an .npz with the key `rtt_ms`, N x N or slices x N x N, or a CSV file, N x N; in ms.  Raises BadMatrix.

    NaN, or an empty field, is unknown: as long as the other direction, else as the shortest way over a third place.
    """
    return from_ms(_read_csv(path) if path.suffix.lower() == ".csv" else _read(path), str(path))


def from_ms(rtt_ms: NDArray[Any], name: str) -> RttMatrix:
    """`name`: what a sentence calls it.  The diagonal is not looked at.  Raises BadMatrix."""
    if rtt_ms.dtype.kind not in "fiu":
        raise BadMatrix(f"{name}: {KEY} must hold numbers, not {rtt_ms.dtype}.")
    if rtt_ms.ndim not in (2, 3):
        raise BadMatrix(f"{name}: {KEY} must be N x N or slices x N x N; it has the shape {_shape(rtt_ms)}.")
    if rtt_ms.shape[-1] != rtt_ms.shape[-2]:
        raise BadMatrix(f"{name}: {KEY} is not square: it has the shape {_shape(rtt_ms)}.")
    places = rtt_ms.shape[-1]
    if not 2 <= places <= MAX_PLACES or not rtt_ms.size or rtt_ms.size > MAX_ENTRIES:
        raise BadMatrix(
            f"{name}: {KEY} has the shape {_shape(rtt_ms)}; 2 to {MAX_PLACES} places and at most {MAX_ENTRIES}"
            " entries can be used."
        )
    slices = np.array(rtt_ms, dtype=np.float64).reshape(-1, places, places)
    slices[:, np.arange(places), np.arange(places)] = 0.0
    _check(slices, rtt_ms.ndim, name)
    slices = np.where(np.isnan(slices), slices.transpose(0, 2, 1), slices)
    known = ~np.isnan(slices)
    seen = known.any(axis=0)
    lonely = np.flatnonzero(seen.sum(axis=1) < 2)  # all know themselves
    if len(lonely):
        raise BadMatrix(f"{name}: row {lonely[0]} of {KEY} is missing: nothing is known of its distances.")
    median = np.where(seen, np.nanmedian(np.where(seen, slices, 0.0), axis=0), np.nan)
    estimated = int((~seen).sum())
    median = _over_a_third(median, name)
    ratio = None
    if len(slices) > 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.where(known & (median > 0), slices / median, 1.0)
        ratio = np.clip(quotient, *RATIO_BOUNDS).astype(np.float32)
    return RttMatrix(_whole_us(median), ratio, estimated)


def sphere(places: int, seed: int) -> RttMatrix:
    """Places in regions on the earth; ways are longer than the great circle as they were measured to be."""
    dice = np.random.default_rng([seed, 0x5F])
    return RttMatrix(_whole_us(_sphere_floor_ms(places, dice) * _stretch(places, dice)), None, 0)


def _sphere_floor_ms(places: int, dice: np.random.Generator) -> NDArray[np.float64]:
    """RTT along great circles, with the access lines: a metric."""
    centres = _unit(dice.normal(size=(REGIONS, 3)))
    spread = REGION_RADIUS_KM / EARTH_RADIUS_KM
    points = _unit(centres[dice.integers(0, REGIONS, places)] + spread * dice.normal(size=(places, 3)))
    km = EARTH_RADIUS_KM * np.arccos(np.clip(points @ points.T, -1.0, 1.0))
    access = ACCESS_MS[0] + dice.exponential(ACCESS_MS[1], places)
    floor = (km + km.T) / 2 / KM_PER_RTT_MS + (access[:, None] + access[None]) / 2
    np.fill_diagonal(floor, 0.0)
    return np.asarray(floor, dtype=np.float64)


def _stretch(places: int, dice: np.random.Generator) -> NDArray[np.float64]:
    """Two half log-normals that meet at the median; the same both ways."""
    low, middle, high = STRETCH_P10_P50_P90
    deviations = np.triu(dice.normal(size=(places, places)), 1)
    deviations = deviations + deviations.T
    below, above = np.log(middle / low) / _P90_DEVIATIONS, np.log(high / middle) / _P90_DEVIATIONS
    stretch = middle * np.exp(deviations * np.where(deviations < 0, below, above))
    return np.asarray(np.maximum(stretch, 1.0), dtype=np.float64)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float64)


def _read(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise BadMatrix(f"{path} is no .npz file.")
            sizes = {entry.filename: entry.file_size for entry in zipfile.ZipFile(stream).infolist()}
            if f"{KEY}.npy" not in sizes:
                names = ", ".join(sorted(name.removesuffix(".npy") for name in sizes))
                raise BadMatrix(f"{path} has no array {KEY!r}; it has {names or 'nothing'}.")
            if sizes[f"{KEY}.npy"] > MAX_ARRAY_BYTES:
                raise BadMatrix(f"{path}: {KEY} is larger than {MAX_ARRAY_BYTES} bytes.")
            stream.seek(0)
            array: NDArray[Any] = np.load(stream, allow_pickle=False)[KEY]
            return array
    except FileNotFoundError as exc:
        raise BadMatrix(f"There is no file {path}.") from exc
    except (
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError, MemoryError
    ) as exc:  # fmt: skip
        raise BadMatrix(f"{path} cannot be read as an .npz file of numbers ({exc}).") from exc


def _read_csv(path: Path) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise BadMatrix(f"{path} is larger than {MAX_CSV_BYTES} bytes; use an .npz file.")
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.reader(file):
                if row:
                    rows.append([_number(text, len(rows), column, path) for column, text in enumerate(row)])
    except OSError as exc:
        raise BadMatrix(f"{path} cannot be read: {exc.strerror}.") from exc
    except (csv.Error, UnicodeDecodeError) as exc:
        raise BadMatrix(f"{path} is no CSV file: {exc}.") from exc
    for index, numbers in enumerate(rows):
        if len(numbers) != len(rows):
            raise BadMatrix(
                f"{path} is not square: row {index} has {len(numbers)} entries where {len(rows)} rows want as many."
            )
    return np.array(rows, dtype=np.float64)


def _number(text: str, row: int, column: int, path: Path) -> float:
    if not text.strip():
        return math.nan
    try:
        return float(text)
    except ValueError:
        shown = repr(text)[:40]
        raise BadMatrix(
            f"{path}: row {row}, column {column} is {shown}; it must be a number of milliseconds, or empty."
        ) from None


def _check(slices: NDArray[np.float64], dimensions: int, name: str) -> None:
    for wrong, what in (
        (slices < 0, "is negative"),
        (np.isinf(slices), "is infinite"),
        (slices > MAX_RTT_MS, f"is longer than {MAX_RTT_MS / 1e3:.0f} s"),
    ):
        if wrong.any():
            at = tuple(int(index) for index in np.argwhere(wrong)[0])
            entry = ", ".join(map(str, at[-dimensions:]))
            raise BadMatrix(f"{name}: {KEY}[{entry}] is {slices[at]:g} ms: a round trip that {what}.")


def _over_a_third(median: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    filled = median.copy()
    passable = np.where(np.isnan(median), np.inf, median)
    for here, there in np.argwhere(np.isnan(median)):
        detour = float((passable[here] + passable[:, there]).min())
        if not np.isfinite(detour):
            raise BadMatrix(
                f"{name}: {KEY}[{here}, {there}] is missing, and no third place is known from both."
            )
        filled[here, there] = detour
    return filled


def _whole_us(rtt_ms: NDArray[np.float64]) -> NDArray[np.int64]:
    whole = np.maximum(np.rint(rtt_ms * 1e3).astype(np.int64), LEAST_RTT_US)
    np.fill_diagonal(whole, 0)
    return whole


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape)) or "of one number"
