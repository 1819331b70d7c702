"""Motifs that stand in the middle of a picture, as layers of polygons around the origin with a radius of about 1."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Points = np.ndarray  # (n, 2) float64, y downwards


@dataclass(frozen=True)
class Layer:
    """What is painted at once in one colour: filled polygons and strokes (points, width).

    Roles: "main" is the foreground colour, "light" and "dark" are tints of it, "gap" lets the background through.
    "accent|X" is the scene's second colour, or X where the scene has none.
    """

    role: str
    polygons: tuple[Points, ...] = ()
    strokes: tuple[tuple[Points, float], ...] = ()
    solid: bool = False  # too small or too dense for outlines alone


def placed(layers: list[Layer], x: float, y: float, radius: float, angle: float = 0.0) -> list[Layer]:
    """The layers scaled to `radius`, turned by `angle` (radians) and moved to (x, y)."""

    def move(points: Points) -> Points:
        return moved(turned(points, angle) * radius, x, y)

    return [
        replace(
            layer,
            polygons=tuple(move(p) for p in layer.polygons),
            strokes=tuple((move(p), width * radius) for p, width in layer.strokes),
        )
        for layer in layers
    ]


def moved(points: Points, x: float, y: float) -> Points:
    return points + np.array([x, y])


def turned(points: Points, angle: float) -> Points:
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def ellipse(x: float, y: float, across: float, down: float, angle: float = 0.0) -> Points:
    t = np.linspace(0, math.tau, 97)[:-1]
    return moved(turned(np.stack([across * np.cos(t), down * np.sin(t)], 1), angle), x, y)


def disc(x: float, y: float, radius: float) -> Points:
    return ellipse(x, y, radius, radius)


def regular(corners: int, radius: float = 1.0, start: float = -math.pi / 2) -> Points:
    t = start + math.tau * np.arange(corners) / corners
    return radius * np.stack([np.cos(t), np.sin(t)], 1)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def around(count: int, reach: float, across: float, down: float, start: float = 0.0) -> tuple[Points, ...]:
    """`count` ellipses in a ring, each pointing outwards."""
    angles = [start + math.tau * k / count for k in range(count)]
    return tuple(ellipse(reach * math.cos(a), reach * math.sin(a), across, down, a) for a in angles)


def _outline(points: Points) -> list[Layer]:
    """A plain shape; in two colours it holds a smaller copy of itself."""
    return [Layer("main", (points,)), Layer("accent|none", (points * 0.52,))]


def _circle(dice: random.Random) -> list[Layer]:
    return _outline(disc(0, 0, 1))


def _square(dice: random.Random) -> list[Layer]:
    return _outline(box(-0.86, -0.86, 0.86, 0.86))


def _triangle(dice: random.Random) -> list[Layer]:
    return _outline(moved(regular(3, 1.12), 0, 0.16))


def _hexagon(dice: random.Random) -> list[Layer]:
    return _outline(regular(6, 1.04, 0.0))


def _diamond(dice: random.Random) -> list[Layer]:
    return _outline(np.array([(0, -1.1), (0.74, 0), (0, 1.1), (-0.74, 0)], float))


def star_points(tips: int, inner: float, radius: float = 1.0) -> Points:
    points = regular(2 * tips, radius)
    points[1::2] *= inner
    return points


def _star(dice: random.Random) -> list[Layer]:
    return _outline(moved(star_points(5, 0.45, 1.12), 0, 0.06))


def _cross(dice: random.Random) -> list[Layer]:
    a, b = 0.95, 0.32
    corners = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b)]
    return _outline(np.array([*corners, (-a, -b), (-b, -b)], float))


def crescent_points() -> Points:
    """Open to the upper right."""
    outer = np.linspace(math.radians(-62), math.radians(-298), 70)
    inner = np.linspace(math.radians(-279), math.radians(-81), 60)
    bow = np.stack([np.cos(outer), np.sin(outer)], 1)
    bite = np.stack([0.47 - 0.03 + 0.9 * np.cos(inner) * 0.98, 0.895 * np.sin(inner)], 1)
    return turned(moved(np.concatenate([bow, bite]) * 1.02, 0.16, 0), math.radians(-28))


def _crescent_moon(dice: random.Random) -> list[Layer]:
    twinkle = moved(star_points(4, 0.38, 0.24), 0.42, -0.2)
    return [Layer("main", (crescent_points(),)), Layer("accent|none", (twinkle,))]


def _heart(dice: random.Random) -> list[Layer]:
    t = np.linspace(0, math.tau, 97)[:-1]
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _outline(np.stack([16 * np.sin(t) ** 3, -up - 2.5], 1) / 16.5)


def _flower(dice: random.Random) -> list[Layer]:
    petals = around(6, 0.58, 0.46, 0.3, -math.pi / 2)
    return [Layer("main", petals), Layer("accent|gap", (disc(0, 0, 0.24),))]


def _leaf(dice: random.Random) -> list[Layer]:
    along = np.linspace(0, 1, 50)
    half = 0.52 * np.sin(math.pi * along**0.85) ** 1.1
    edge = np.stack([half, 0.85 - 1.95 * along], 1)
    blade = np.concatenate([edge, (edge * (-1, 1))[::-1]])
    rib = np.array([(0, 0.72), (0, -0.72)], float)
    veins = [
        np.array([(0, y), (side * 0.34, y - 0.26)], float) for y in (0.42, 0.06, -0.3) for side in (-1, 1)
    ]
    stem = np.array([(0, 1.12), (0, 0.7)], float)
    tilt = math.radians(38)
    layers = [
        Layer("main", (blade,), ((stem, 0.1),)),
        Layer("accent|gap", (), tuple((v, 0.065) for v in [rib, *veins])),
    ]
    return placed(layers, 0, 0, 1.0, tilt)


def _tree(dice: random.Random) -> list[Layer]:
    trunk = np.array([(-0.1, 0.1), (0.1, 0.1), (0.17, 1.05), (-0.17, 1.05)], float)
    crown = ((0, -0.5, 0.5), (-0.42, -0.08, 0.42), (0.42, -0.08, 0.42), (0, 0.02, 0.42))
    return [
        Layer("accent|dark", (trunk,)),
        Layer("main", tuple(disc(*c) for c in crown)),
    ]


def _cloud(dice: random.Random) -> list[Layer]:
    puffs = ((-0.7, 0.14, 0.4), (-0.16, -0.18, 0.56), (0.5, 0.02, 0.49), (0.86, 0.25, 0.29))
    body = (*(disc(*p) for p in puffs), box(-0.7, 0.1, 0.86, 0.54))
    shade = tuple(disc(x, y + 0.07, r * 0.62) for x, y, r in puffs[1:3])
    return [Layer("main", body), Layer("accent|none", shade)]


def _butterfly(dice: random.Random) -> list[Layer]:
    upper = tuple(ellipse(s * 0.5, -0.34, 0.54, 0.38, s * math.radians(-38)) for s in (-1, 1))
    lower = tuple(ellipse(s * 0.38, 0.42, 0.42, 0.3, s * math.radians(40)) for s in (-1, 1))
    spots = tuple(disc(s * 0.58, -0.4, 0.15) for s in (-1, 1))
    feelers = tuple((np.array([(0, -0.5), (s * 0.1, -0.8), (s * 0.26, -1.0)], float), 0.06) for s in (-1, 1))
    return [
        Layer("main", upper + lower),
        Layer("accent|gap", spots),
        Layer("accent|dark", (ellipse(0, 0.02, 0.1, 0.62),), feelers),
    ]


def _mushroom(dice: random.Random) -> list[Layer]:
    t = np.linspace(math.pi, math.tau, 60)
    dome = np.stack([0.98 * np.cos(t), 0.12 + 1.0 * np.sin(t)], 1)
    brim = np.stack([0.98 * np.cos(t[::-1]), 0.12 - 0.16 * np.sin(t[::-1])], 1)
    stem = np.array([(-0.24, 0.1), (0.24, 0.1), (0.32, 0.98), (-0.32, 0.98)], float)
    spots = (disc(-0.42, -0.22, 0.15), disc(0.08, -0.52, 0.17), disc(0.46, -0.14, 0.14))
    return [
        Layer("light", (stem,)),
        Layer("main", (np.concatenate([dome, brim]),)),
        Layer("accent|gap", spots),
    ]


def _fish(dice: random.Random) -> list[Layer]:
    t = np.linspace(0, math.tau, 97)[:-1]
    body = np.stack([-0.16 + 0.8 * np.cos(t), 0.5 * np.sin(t) * (1 - 0.18 * np.cos(t))], 1)
    tail = np.array([(0.44, 0), (1.04, -0.46), (0.9, 0), (1.04, 0.46)], float)
    fin = np.array([(-0.3, -0.4), (0.06, -0.8), (0.26, -0.32)], float)
    t = np.linspace(-0.95, 0.95, 20)
    gill = np.stack([-0.46 + 0.2 * np.cos(t), 0.3 * np.sin(t)], 1)
    return [
        Layer("accent|light", (tail, fin)),
        Layer("main", (body,)),
        Layer("gap", (disc(-0.62, -0.1, 0.09),), ((gill, 0.06),)),
    ]


def _spiral(dice: random.Random) -> list[Layer]:
    turns, start = 3.0, dice.uniform(-0.5, 0.5)
    share = np.linspace(0.03, 1, 150)
    angle = start + turns * math.tau * share
    arm = np.stack([np.cos(angle), np.sin(angle)], 1) * (share * 1.12)[:, None]
    second = arm[-56:]
    return [Layer("main", (), ((arm, 0.165),)), Layer("accent|none", (), ((second, 0.165),))]


def _concentric_circles(dice: random.Random) -> list[Layer]:
    radii = (1.05, 0.77, 0.49, 0.19)
    rings = [(disc(0, 0, r)[[*range(96), 0]], 0.14) for r in radii[:3]]
    return [
        Layer("main", (), (rings[0], rings[2])),
        Layer("accent|main", (), (rings[1],)),
        Layer("accent|main", (disc(0, 0, radii[3]),), solid=True),
    ]


def _mandala(dice: random.Random) -> list[Layer]:
    count = dice.choice((10, 12))
    half = math.pi / count
    ring = disc(0, 0, 0.56)[[*range(96), 0]]
    return [
        Layer("main", around(count, 0.86, 0.26, 1.9 / count, half), ((ring, 0.07),)),
        Layer("accent|gap", around(count, 0.88, 0.1, 0.7 / count, half), solid=True),
        Layer("main", around(count // 2, 0.32, 0.2, 0.12, half)),
        Layer("accent|gap", (disc(0, 0, 0.12),), solid=True),
    ]


SHAPES: dict[str, Callable[[random.Random], list[Layer]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "hexagon": _hexagon,
    "diamond": _diamond,
    "cross": _cross,
    "crescent moon": _crescent_moon,
    "heart": _heart,
    "flower": _flower,
    "leaf": _leaf,
    "tree": _tree,
    "cloud": _cloud,
    "butterfly": _butterfly,
    "mushroom": _mushroom,
    "fish": _fish,
}
"""Countable motifs: several may stand in one picture, small or large, and in relation to another."""

CENTREPIECES: dict[str, Callable[[random.Random], list[Layer]]] = {
    "spiral": _spiral,
    "concentric circles": _concentric_circles,
    "mandala": _mandala,
}
"""Motifs that a picture holds once."""
