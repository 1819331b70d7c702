"""Two-coloured generative art, drawn from a seed: what the reference model learns to draw.

`Scene` says what is in a picture; `draw` makes the pixels.  Every picture has one motif in one foreground
colour on one background colour.  Shapes are large and strokes wide, because the autoencoder sees them through
8 x 8 pixel cells.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIZE_PX = 128
CANVAS_PX = 256  # drawn at twice the size and averaged down: that is the anti-aliasing
TINT_LEVELS = 8  # how far a colour's channels wander from the palette, of 255

Colour = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: dict[str, Colour] = {
    "red": (212, 35, 40),
    "orange": (246, 124, 28),
    "gold": (200, 156, 44),
    "yellow": (252, 222, 62),
    "green": (44, 150, 70),
    "teal": (24, 152, 156),
    "blue": (42, 92, 218),
    "navy": (20, 28, 86),
    "purple": (116, 50, 176),
    "pink": (242, 126, 182),
    "brown": (116, 70, 36),
    "grey": (142, 142, 146),
    "white": (246, 246, 244),
    "black": (15, 15, 18),
}


@dataclass(frozen=True)
class Scene:
    """One picture in words: a motif, its colour, the colour behind it (names from MOTIFS and PALETTE)."""

    motif: str
    foreground: str
    background: str


@dataclass
class Canvas:
    """The picture being drawn, with its two tinted colours, its middle and its radius in canvas pixels."""

    dice: random.Random
    pen: ImageDraw.ImageDraw
    front: Colour
    back: Colour
    x: float
    y: float
    radius: float

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)

    def polar(self, angle: float, radius: float) -> Point:
        return self.x + radius * math.cos(angle), self.y + radius * math.sin(angle)

    def stroke(self, points: list[Point], width: float) -> None:
        self.pen.line(points, fill=self.front, width=round(width), joint="curve")


def draw(scene: Scene, seed: int) -> Image.Image:
    """The SIZE_PX x SIZE_PX RGB picture of `scene`; the same seed gives the same pixels."""
    dice = random.Random(f"{scene.motif}/{scene.foreground}/{scene.background}/{seed}")
    front = _tint(PALETTE[scene.foreground], dice)
    back = _tint(PALETTE[scene.background], dice)
    picture = Image.new("RGB", (CANVAS_PX, CANVAS_PX), back)
    middle = CANVAS_PX / 2
    canvas = Canvas(
        dice=dice,
        pen=ImageDraw.Draw(picture),
        front=front,
        back=back,
        x=middle + dice.uniform(-14, 14),
        y=middle + dice.uniform(-14, 14),
        radius=CANVAS_PX * dice.uniform(0.32, 0.42),
    )
    MOTIFS[scene.motif](canvas)
    return picture.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def random_scene(dice: random.Random) -> Scene:
    motif = dice.choice(list(MOTIFS))
    foreground, background = dice.sample(list(PALETTE), 2)
    return Scene(motif, foreground, background)


def _held_out_scenes(count: int) -> tuple[Scene, ...]:
    dice = random.Random("held out")
    motifs = list(MOTIFS)
    scenes = []
    for index in range(count):  # every motif in turn, so that all are judged
        foreground, background = dice.sample(list(PALETTE), 2)
        scenes.append(Scene(motifs[index % len(motifs)], foreground, background))
    return tuple(scenes)


def _tint(colour: Colour, dice: random.Random) -> Colour:
    red, green, blue = (
        max(0, min(255, round(level + dice.uniform(-TINT_LEVELS, TINT_LEVELS)))) for level in colour
    )
    return red, green, blue


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _spiral(c: Canvas) -> None:
    turns, start, hand = c.dice.uniform(2.4, 3.4), c.dice.uniform(0, math.tau), c.dice.choice((-1, 1))
    steps = 300
    ends = [(start + hand * turns * math.tau * k / steps, c.radius * k / steps) for k in range(steps + 1)]
    c.stroke([c.polar(angle, radius) for angle, radius in ends], c.radius / turns * 0.48)


def _concentric_circles(c: Canvas) -> None:
    rings = c.dice.choice((5, 7))
    for ring in range(rings, 0, -1):
        c.disc(c.x, c.y, c.radius * 1.1 * ring / rings, c.front if ring % 2 else c.back)


def _petals(c: Canvas, count: int, reach: float, fatness: float, start: float) -> None:
    for petal in range(count):
        angle = start + math.tau * petal / count
        x, y = c.polar(angle, c.radius * reach)
        c.disc(x, y, c.radius * fatness, c.front)


def _flower(c: Canvas) -> None:
    _petals(c, c.dice.choice((5, 6)), 0.66, 0.36, c.dice.uniform(0, math.tau))
    c.disc(c.x, c.y, c.radius * 0.45, c.front)
    c.disc(c.x, c.y, c.radius * 0.26, c.back)


def _mandala(c: Canvas) -> None:
    count, start = c.dice.choice((8, 10)), c.dice.uniform(0, math.tau)
    _petals(c, count, 0.98, 0.16, start)
    c.disc(c.x, c.y, c.radius * 0.78, c.front)
    c.disc(c.x, c.y, c.radius * 0.64, c.back)
    for spoke in range(count):
        c.stroke([(c.x, c.y), c.polar(start + math.tau * spoke / count, c.radius * 0.7)], c.radius * 0.1)
    c.disc(c.x, c.y, c.radius * 0.26, c.front)


def _stripes(c: Canvas) -> None:
    pitch, phase = c.dice.uniform(36, 60), c.dice.uniform(0, 60)
    x = phase - 60
    while x < CANVAS_PX:
        c.pen.rectangle([x, 0, x + pitch / 2, CANVAS_PX], fill=c.front)
        x += pitch


def _diagonal_stripes(c: Canvas) -> None:
    pitch, phase, lean = c.dice.uniform(52, 80), c.dice.uniform(0, 80), c.dice.choice((-1, 1))
    x = phase - 2 * CANVAS_PX
    while x < 2 * CANVAS_PX:
        far = x + lean * CANVAS_PX
        c.pen.polygon(
            [(x, 0), (x + pitch / 2, 0), (far + pitch / 2, CANVAS_PX), (far, CANVAS_PX)], fill=c.front
        )
        x += pitch


def _checkerboard(c: Canvas) -> None:
    squares, odd = c.dice.choice((4, 5, 6)), c.dice.choice((0, 1))
    side = CANVAS_PX / squares
    for row in range(squares):
        for column in range(squares):
            if (row + column) % 2 == odd:
                left, top = column * side, row * side
                c.pen.rectangle([left, top, left + side - 1, top + side - 1], fill=c.front)


def _sunset_over_mountains(c: Canvas) -> None:
    c.disc(c.x + c.dice.uniform(-30, 30), CANVAS_PX * c.dice.uniform(0.38, 0.5), c.radius * 0.55, c.front)
    for horizon, colour in ((0.62, _mix(c.front, c.back, 0.45)), (0.8, c.front)):
        points: list[Point] = [(0, CANVAS_PX)]
        x, up = -c.dice.uniform(0, 40), c.dice.choice((True, False))
        while x < CANVAS_PX + 50:
            points.append((x, CANVAS_PX * horizon + (-26 if up else 22)))
            x, up = x + c.dice.uniform(34, 52), not up
        c.pen.polygon([*points, (CANVAS_PX, CANVAS_PX)], fill=colour)


def _starburst(c: Canvas) -> None:
    rays, start = c.dice.choice((8, 10, 12)), c.dice.uniform(0, math.tau)
    for ray in range(rays):
        angle = start + math.tau * ray / rays
        far = 2 * CANVAS_PX
        c.pen.polygon(
            [(c.x, c.y), c.polar(angle, far), c.polar(angle + math.pi / rays, far)],
            fill=c.front,
        )


def _waves(c: Canvas) -> None:
    count, height = c.dice.choice((4, 5)), c.dice.uniform(9, 15)
    length, phase = c.dice.uniform(90, 150), c.dice.uniform(0, math.tau)
    pitch = CANVAS_PX / count
    for wave in range(-1, count + 1):
        middle = pitch * (wave + 0.5)
        crest = [
            (x, middle + height * math.sin(math.tau * x / length + phase))
            for x in range(-8, CANVAS_PX + 9, 4)
        ]
        c.pen.polygon([*crest, *((x, y + pitch / 2) for x, y in reversed(crest))], fill=c.front)


def _bubbles(c: Canvas) -> None:
    placed: list[tuple[float, float, float]] = []
    for _ in range(60):
        radius = c.dice.uniform(16, 38)
        x, y = c.dice.uniform(20, CANVAS_PX - 20), c.dice.uniform(20, CANVAS_PX - 20)
        if all(math.hypot(x - a, y - b) > radius + r + 6 for a, b, r in placed):
            placed.append((x, y, radius))
            c.disc(x, y, radius, c.front)


def _circle(c: Canvas) -> None:
    c.disc(c.x, c.y, c.radius, c.front)


def _square(c: Canvas) -> None:
    half = c.radius * 0.86
    c.pen.rectangle([c.x - half, c.y - half, c.x + half, c.y + half], fill=c.front)


def _triangle(c: Canvas) -> None:
    c.pen.polygon([c.polar(math.tau * (k / 3 - 0.25), c.radius * 1.1) for k in range(3)], fill=c.front)


def _star(c: Canvas) -> None:
    tips = [c.polar(math.tau * (k / 10 - 0.25), c.radius * (1.12 if k % 2 == 0 else 0.5)) for k in range(10)]
    c.pen.polygon(tips, fill=c.front)


def _heart(c: Canvas) -> None:
    unit = c.radius / 16
    points = []
    for step in range(80):
        t = math.tau * step / 80
        across = 16 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((c.x + unit * across, c.y - unit * up))
    c.pen.polygon(points, fill=c.front)


def _crescent_moon(c: Canvas) -> None:
    c.disc(c.x, c.y, c.radius, c.front)
    side = c.dice.choice((-1, 1))
    c.disc(c.x + side * c.radius * 0.48, c.y - c.radius * 0.14, c.radius * 0.82, c.back)


def _tree(c: Canvas) -> None:
    trunk = c.radius * 0.13
    ground = CANVAS_PX * 0.86
    c.pen.rectangle([c.x - trunk, c.y, c.x + trunk, ground], fill=c.front)
    c.pen.rectangle([0, ground, CANVAS_PX, CANVAS_PX], fill=c.front)
    for across, up, radius in ((0.0, 0.62, 0.5), (-0.42, 0.22, 0.44), (0.42, 0.22, 0.44)):
        c.disc(c.x + across * c.radius, c.y - up * c.radius, radius * c.radius, c.front)


MOTIFS: dict[str, Callable[[Canvas], None]] = {
    "spiral": _spiral,
    "concentric circles": _concentric_circles,
    "flower": _flower,
    "mandala": _mandala,
    "stripes": _stripes,
    "diagonal stripes": _diagonal_stripes,
    "checkerboard": _checkerboard,
    "sunset over mountains": _sunset_over_mountains,
    "starburst": _starburst,
    "waves": _waves,
    "bubbles": _bubbles,
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "crescent moon": _crescent_moon,
    "tree": _tree,
}

FULL_FIELD_MOTIFS = frozenset({"stripes", "diagonal stripes", "checkerboard", "starburst", "waves"})
"""Motifs that fill the picture half and half: which colour is in front cannot be seen."""

HELD_OUT_SCENES = _held_out_scenes(72)
"""Combinations of motif and colours that training never sees; prompts for the evaluation come from these."""
