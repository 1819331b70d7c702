"""Motifs that fill the frame: landscapes and patterns, as layers in a frame `wide` by `high`, its short side 1."""

import math
import random
from collections.abc import Callable

import numpy as np

from .shapes import Layer, Points, box, crescent_points, disc, moved, placed, star_points


def _ground(edge: Points, high: float) -> Points:
    """Everything under `edge`, which runs from left to right."""
    corners = np.array([(edge[-1, 0], high + 0.1), (edge[0, 0], high + 0.1)])
    return np.concatenate([edge, corners])


def _range_of_peaks(dice: random.Random, wide: float, base: float, height: float, pitch: float) -> Points:
    count = max(2, round(wide / pitch))
    step = wide / count
    points = [(-0.1, base)]
    for k in range(count):
        middle = (k + 0.5 + dice.uniform(-0.12, 0.12)) * step
        points += [(middle, base - height * dice.uniform(0.75, 1.0)), ((k + 1) * step, base - 0.1 * height)]
    return np.array([*points, (wide + 0.1, base)], float)


def _sunset_over_mountains(dice: random.Random, wide: float, high: float) -> list[Layer]:
    sun = disc(wide * (0.5 + dice.uniform(-0.1, 0.1)), high * 0.36, 0.19)
    back = moved(_range_of_peaks(dice, wide + 0.3, high * 0.78, 0.34, 0.55), -0.15, 0)
    front = _range_of_peaks(dice, wide, high * 0.98, 0.4, 0.5)
    return [
        Layer("accent|light", (sun,)),
        Layer("light", (_ground(back, high),)),
        Layer("main", (_ground(front, high),)),
    ]


def _rolling(dice: random.Random, wide: float, base: float, height: float, phase: float) -> Points:
    x = np.linspace(-0.05, wide + 0.05, 80)
    y = base - height * (np.sin(x * 4.4 + phase) + 0.35 * np.sin(x * 8.3 + 2 * phase))
    return np.stack([x, y], 1)


def _hills(dice: random.Random, wide: float, high: float) -> list[Layer]:
    start = dice.uniform(0, math.tau)
    slopes = [
        Layer(role, (_ground(_rolling(dice, wide, high * base, 0.07, start + turn), high),))
        for role, base, turn in (("light", 0.5, 0.0), ("main", 0.66, 2.2), ("dark", 0.84, 4.1))
    ]
    sun = disc(wide * 0.72, high * 0.2, 0.09)
    return [Layer("accent|none", (sun,)), *slopes]


def _night_sky(dice: random.Random, wide: float, high: float) -> list[Layer]:
    moon = placed([Layer("accent|main", (crescent_points(),))], wide * 0.66, high * 0.3, 0.15)
    spots = [
        (0.14, 0.14),
        (0.36, 0.24),
        (0.22, 0.42),
        (0.48, 0.47),
        (0.88, 0.52),
        (0.42, 0.08),
        (0.9, 0.1),
        (0.08, 0.6),
    ]
    stars = tuple(
        moved(
            star_points(4, 0.4, dice.choice((0.036, 0.05))),
            wide * (x + dice.uniform(-0.03, 0.03)),
            high * (y + dice.uniform(-0.02, 0.02)),
        )
        for x, y in spots
    )
    hill = _ground(_rolling(dice, wide, high * 0.82, 0.05, dice.uniform(0, math.tau)), high)
    return [*moon, Layer("main", stars, solid=True), Layer("main", (hill,))]


def _skyline(dice: random.Random, wide: float, high: float) -> list[Layer]:
    towers, windows, back = [], [], []
    count = max(4, round(wide * 5))
    step = wide / count
    for k in range(-1, count + 1):
        top = high * dice.uniform(0.28, 0.48)
        back.append(box((k + 0.5) * step, top, (k + 1.25) * step, high + 0.1))
    for k in range(count):
        left, right = (k + 0.06) * step, (k + 0.94) * step
        top = high * dice.choice((0.42, 0.5, 0.58, 0.66))
        towers.append(box(left, top, right, high + 0.1))
        y = top + 0.05
        while y < high - 0.05:
            for share in (0.3, 0.7):
                middle = left + share * (right - left)
                windows.append(box(middle - 0.02, y, middle + 0.02, y + 0.045))
            y += 0.105
    return [
        Layer("light", tuple(back)),
        Layer("main", tuple(towers)),
        Layer("accent|gap", tuple(windows), solid=True),
    ]


def _waves(dice: random.Random, wide: float, high: float) -> list[Layer]:
    layers = []
    phase, rows = dice.uniform(0, 1), 5
    for row in range(rows):
        x = np.linspace(-0.05, wide + 0.05, 160)
        crest = np.abs(np.sin(math.pi * (x / 0.36 + phase + 0.5 * row)))  # scallops
        y = high * (0.36 + 0.145 * row) - 0.085 * crest
        role = ("light", "main", "accent|dark", "main", "accent|light")[row]
        layers.append(Layer(role, (_ground(np.stack([x, y], 1), high),)))
    return layers


def _alternating(polygons: list[Points]) -> list[Layer]:
    """All in one colour, or every other one in the second."""
    return [Layer("main", tuple(polygons[::2])), Layer("accent|main", tuple(polygons[1::2]))]


def _stripes(dice: random.Random, wide: float, high: float) -> list[Layer]:
    pitch = 1 / dice.choice((5, 6, 7))
    count = math.ceil(wide / pitch)
    left = (wide - (count - 0.5) * pitch) / 2
    return _alternating(
        [box(left + k * pitch, -0.1, left + (k + 0.5) * pitch, high + 0.1) for k in range(count)]
    )


def _diagonal_stripes(dice: random.Random, wide: float, high: float) -> list[Layer]:
    pitch = 1 / dice.choice((3, 3.5, 4))
    bars = []
    for k in range(-math.ceil(high / pitch) - 1, math.ceil(wide / pitch) + 1):
        x = k * pitch
        bars.append(
            np.array([(x, high), (x + high, 0), (x + high + pitch / 2, 0), (x + pitch / 2, high)], float)
        )
    return _alternating(bars)


def _checkerboard(dice: random.Random, wide: float, high: float) -> list[Layer]:
    side = 1 / dice.choice((4, 5, 6))
    squares: list[list[Points]] = [[], []]
    for row in range(math.ceil(high / side)):
        for column in range(math.ceil(wide / side)):
            if (row + column) % 2 == 0:
                x, y = column * side, row * side
                squares[row % 2].append(box(x, y, x + side, y + side))
    return [Layer("main", tuple(squares[0]), solid=True), Layer("accent|main", tuple(squares[1]), solid=True)]


def _polka_dots(dice: random.Random, wide: float, high: float) -> list[Layer]:
    pitch = 1 / dice.choice((4, 5))
    rows: list[list[Points]] = [[], []]
    for row in range(-1, math.ceil(high / pitch) + 1):
        for column in range(-1, math.ceil(wide / pitch) + 1):
            x, y = (column + 0.5 + 0.5 * (row % 2)) * pitch, (row + 0.5) * pitch
            rows[row % 2].append(disc(x, y, pitch * 0.3))
    return [Layer("main", tuple(rows[0])), Layer("accent|main", tuple(rows[1]))]


def _zigzag(dice: random.Random, wide: float, high: float) -> list[Layer]:
    pitch, tooth = 1 / dice.choice((4, 5)), 0.125
    count = math.ceil(wide / tooth) + 2
    x = np.arange(-1, count) * tooth
    y = np.where(np.arange(len(x)) % 2 == 0, -0.06, 0.06)
    bands = []
    for row in range(-1, math.ceil(high / pitch) + 1):
        upper = np.stack([x, y + (row + 0.25) * pitch], 1)
        bands.append(np.concatenate([upper, moved(upper, 0, pitch / 2)[::-1]]))
    return _alternating(bands)


def _grid(dice: random.Random, wide: float, high: float) -> list[Layer]:
    pitch = 1 / dice.choice((4, 5))
    upright = [
        box((k + 0.5) * pitch - 0.026, -0.1, (k + 0.5) * pitch + 0.026, high + 0.1)
        for k in range(math.ceil(wide / pitch))
    ]
    level = [
        box(-0.1, (k + 0.5) * pitch - 0.026, wide + 0.1, (k + 0.5) * pitch + 0.026)
        for k in range(math.ceil(high / pitch))
    ]
    return [Layer("main", tuple(upright)), Layer("accent|main", tuple(level))]


def _flow_field(dice: random.Random, wide: float, high: float) -> list[Layer]:
    a, b = dice.uniform(0, math.tau), dice.uniform(0, math.tau)
    lines = []
    for row in range(-3, math.ceil(high * 9) + 4):
        x = np.linspace(-0.05, wide + 0.05, 70)
        y = np.full_like(x, row / 9)
        y += 0.11 * np.sin(3.4 * x + a + 1.1 * y * 2) + 0.06 * np.sin(7.1 * x - b + 3.2 * y)
        lines.append((np.stack([x, y], 1), 0.045))
    return [Layer("main", (), tuple(lines[::2])), Layer("accent|main", (), tuple(lines[1::2]))]


def _bubbles(dice: random.Random, wide: float, high: float) -> list[Layer]:
    kept: list[tuple[float, float, float]] = []
    for radius in (0.17, 0.15, 0.13, 0.12, 0.1, 0.1, 0.08, 0.08, 0.06, 0.06, 0.05, 0.05):
        for _ in range(40):
            x, y = dice.uniform(radius, wide - radius), dice.uniform(radius, high - radius)
            if all(math.hypot(x - p, y - q) > radius + r + 0.025 for p, q, r in kept):
                kept.append((x, y, radius))
                break
    shine = tuple(disc(x - 0.36 * r, y - 0.36 * r, 0.2 * r) for x, y, r in kept if r > 0.07)
    return [
        Layer("main", tuple(disc(*each) for each in kept)),
        Layer("accent|gap", shine, solid=True),
    ]


def _starburst(dice: random.Random, wide: float, high: float) -> list[Layer]:
    rays = dice.choice((10, 12, 16))
    x, y, far = wide / 2, high / 2, 2 * max(wide, high)
    start = dice.uniform(0, math.tau / rays)
    beams = []
    for ray in range(rays):
        a = start + math.tau * ray / rays
        b = a + math.pi / rays
        beam = np.array([(0, 0), (math.cos(a), math.sin(a)), (math.cos(b), math.sin(b))]) * far
        beams.append(moved(beam, x, y))
    return [Layer("main", tuple(beams)), Layer("accent|none", (disc(x, y, 0.16),))]


LANDSCAPES: dict[str, Callable[[random.Random, float, float], list[Layer]]] = {
    "sunset over mountains": _sunset_over_mountains,
    "hills": _hills,
    "night sky": _night_sky,
    "skyline": _skyline,
    "waves": _waves,
}

PATTERNS: dict[str, Callable[[random.Random, float, float], list[Layer]]] = {
    "stripes": _stripes,
    "diagonal stripes": _diagonal_stripes,
    "checkerboard": _checkerboard,
    "polka dots": _polka_dots,
    "zigzag": _zigzag,
    "grid": _grid,
    "flow field": _flow_field,
    "bubbles": _bubbles,
    "starburst": _starburst,
}
