"""Generative art drawn from a seed: what the reference model learns to draw.

`draw` turns a `Scene` into pixels.  Lengths are in units of the picture's shorter side, so a scene looks the same at
every size; coverage is drawn at SUPERSAMPLING times the size and averaged, which is the anti-aliasing.
"""

import random
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from . import palette
from .fields import LANDSCAPES, PATTERNS
from .scene import Scene
from .shapes import CENTREPIECES, SHAPES, Layer, moved, placed

SIZE_PX = 256
SUPERSAMPLING = 4

LIGHT_FROM_ABOVE = 0.025  # OKLab lightness that colours gain at the top and lose at the foot
TINT = 0.075  # lightness between a colour and its "light" and "dark" tints
WANDER = (0.012, 0.006, 0.006)  # how far a picture's colours stray from the palette, in L, a, b

RADIUS = {"small": 0.19, None: 0.33, "large": 0.435}
GROUPS = {
    2: ((-0.235, 0.0), (0.235, 0.0)),
    3: ((0.0, -0.2), (-0.235, 0.19), (0.235, 0.19)),
    5: ((0.0, 0.0), (-0.29, -0.29), (0.29, -0.29), (-0.29, 0.29), (0.29, 0.29)),
}
GROUP_RADIUS = {2: 0.19, 3: 0.175, 5: 0.13}
SHIFT, SWELL = 0.02, 0.06  # of position and radius, at most

PASTEL_BLUR = 0.006
NEON_BLUR, NEON_GLOW_BLUR, NEON_GLOW, NEON_CORE, NEON_PANEL = 0.012, 0.028, 0.65, 0.6, 0.25
NEON_DUSK = 0.07  # how much darker the ground is at the foot and the head of a neon picture
INK_BLUR, INK_PITCH, INK_SLIT = 0.0085, 0.068, 0.3
LEAD_BLUR, LEAD_WIDTH, LEAD_RINGS, LEAD_SECTORS, FACET_TINT = 0.009, 0.012, (0.29, 0.5), 12, 0.05
LEAD = (24, 22, 26)  # sRGB levels
INK_CORED = frozenset(PATTERNS) | {"skyline", "mandala"}  # hatching would hide what they are


class Canvas:
    """A picture being painted, layer upon layer; `picture` is (height, width, 3) float32, sRGB levels."""

    def __init__(self, scene: Scene, dice: random.Random, width_px: int, height_px: int) -> None:
        self.motif = scene.motif
        self.unit_px = min(width_px, height_px)
        self.width_px, self.height_px = width_px, height_px
        self.wide, self.high = width_px / self.unit_px, height_px / self.unit_px
        names = list(palette.PALETTE)
        lab = palette.oklab(palette.colours(scene.style))
        strays = {
            name: lab[names.index(name)] + [dice.uniform(-w, w) for w in WANDER]
            for name in (scene.foreground, scene.background, scene.accent, scene.fade)
            if name
        }
        ramp = np.linspace(LIGHT_FROM_ABOVE, -LIGHT_FROM_ABOVE, height_px)[:, None]
        self._shade = np.concatenate([ramp, np.zeros((height_px, 2))], 1)
        front = strays[scene.foreground]
        tint = np.array([TINT, 0, 0])
        self.inks = {"main": front, "light": front + tint, "dark": front - tint}
        if scene.accent:
            self.inks["accent"] = strays[scene.accent]
        back = strays[scene.background]
        if scene.fade:
            share = np.linspace(0, 1, height_px)[:, None]
            share = share * share * (3 - 2 * share)
            back = back * (1 - share) + strays[scene.fade] * share
        if scene.style == "neon":
            self._shade[:, 0] -= NEON_DUSK * np.linspace(-1, 1, height_px) ** 2
        self.ground = self._levels(back)
        if scene.style == "neon":
            self._shade[:, 0] = 0
        self.picture = np.broadcast_to(self.ground, (height_px, width_px, 3)).copy()

    def _levels(self, lab: np.ndarray) -> np.ndarray:
        return palette.srgb(lab + self._shade)[:, None].astype(np.float32)

    def role(self, role: str) -> str | None:
        """The ink that a role means in this picture; None if nothing is painted."""
        if role.startswith("accent|"):
            role = "accent" if "accent" in self.inks else role.removeprefix("accent|")
        return None if role == "none" else role

    def colour(self, ink: str) -> np.ndarray:
        return self.ground if ink == "gap" else self._levels(self.inks[ink])

    def paint(self, coverage: np.ndarray, colour: np.ndarray) -> None:
        self.picture += coverage[..., None] * (colour - self.picture)

    def coverage(self, layer: Layer, stroke_share: float = 1.0) -> np.ndarray:
        """How much of every pixel the layer covers, (height, width) float32 in 0..1."""
        scale = SUPERSAMPLING * self.unit_px
        sheet = Image.new("L", (SUPERSAMPLING * self.width_px, SUPERSAMPLING * self.height_px))
        pen = ImageDraw.Draw(sheet)
        if stroke_share == 1.0:
            for points in layer.polygons:
                pen.polygon((points * scale).ravel().tolist(), fill=255)
        for points, width in layer.strokes:
            thick = max(1, round(width * scale * stroke_share))
            pen.line((points * scale).ravel().tolist(), fill=255, width=thick, joint="curve")
            for x, y in (points[0] * scale, points[-1] * scale):
                pen.ellipse([x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2], fill=255)
        return np.asarray(sheet.reduce(SUPERSAMPLING), np.float32) / 255

    def blurred(self, coverage: np.ndarray, radius: float) -> np.ndarray:
        """`coverage` after a Gaussian blur of `radius`, in units of the shorter side."""
        sheet = Image.fromarray((coverage * 255 + 0.5).astype(np.uint8))
        return np.asarray(sheet.filter(ImageFilter.GaussianBlur(radius * self.unit_px)), np.float32) / 255

    def outline(self, coverage: np.ndarray, blur: float, reach: float = 0.38) -> np.ndarray:
        """A band along the edge of `coverage`, about 2.3 times as wide as `blur` at a reach of 0.38."""
        gain = max(1.0, blur * self.unit_px / 0.2)
        return ((reach - np.abs(self.blurred(coverage, blur) - 0.5)) * gain + 0.5).clip(0, 1)

    def inset(self, coverage: np.ndarray, blur: float) -> np.ndarray:
        """`coverage` without a rim about 3.5 times as wide as `blur`."""
        inside = self.blurred(coverage, 2 * blur)
        gain = max(1.0, 2 * blur * self.unit_px / 0.16)
        return ((inside - 0.92) * gain + 0.5).clip(0, 1) * coverage


def layers_of(scene: Scene, dice: random.Random, wide: float, high: float) -> list[Layer]:
    """The scene's geometry in a frame `wide` by `high`, the shorter of which is 1."""
    middle = wide / 2, high / 2
    if scene.motif in LANDSCAPES or scene.motif in PATTERNS:
        return (LANDSCAPES | PATTERNS)[scene.motif](dice, wide, high)
    if scene.relation:
        return _related(scene, dice, wide, high)

    def stand(x: float, y: float, radius: float) -> list[Layer]:
        shape = (SHAPES | CENTREPIECES)[scene.motif](dice)
        x, y = (at + dice.uniform(-SHIFT, SHIFT) for at in (x, y))
        return placed(shape, x, y, radius * (1 + dice.uniform(-SWELL, SWELL)))

    if scene.count > 1:
        spots = [
            stand(middle[0] + x, middle[1] + y, GROUP_RADIUS[scene.count]) for x, y in GROUPS[scene.count]
        ]
        return [layer for spot in spots for layer in spot]
    radius = RADIUS[scene.size] if scene.motif in SHAPES else 0.4
    return stand(*middle, radius)


def _related(scene: Scene, dice: random.Random, wide: float, high: float) -> list[Layer]:
    x, y = wide / 2 + dice.uniform(-SHIFT, SHIFT), high / 2 + dice.uniform(-SHIFT, SHIFT)
    assert scene.other
    figure = [layer for layer in SHAPES[scene.motif](dice) if not layer.role.startswith("accent|none")]
    if scene.relation == "over" and scene.other in LANDSCAPES:
        frame = LANDSCAPES[scene.other](dice, wide, high * 0.62)
        lower = [
            replace(layer, polygons=tuple(moved(p, 0, high * 0.38) for p in layer.polygons))
            for layer in frame
        ]
        return _recoloured(lower, "accent") + placed(figure, x, y - 0.24 * high, 0.15)
    other = [layer for layer in SHAPES[scene.other](dice) if not layer.role.startswith("accent|none")]
    if scene.relation == "over":
        return _recoloured(placed(other, x, y + 0.22, 0.19), "accent") + placed(figure, x, y - 0.23, 0.17)
    if scene.relation == "on":
        return _recoloured(placed(other, x, y, 0.4), "accent") + placed(figure, x, y, 0.185)
    around = placed(other, x, y, 0.4)[0].polygons[0]
    closed = around[[*range(len(around)), 0, 1]]
    drop = 0.05 if scene.other == "triangle" else 0.0
    return [Layer("accent", (), ((closed, 0.05),)), *placed(figure, x, y + drop, 0.17)]


def _recoloured(layers: list[Layer], ink: str) -> list[Layer]:
    """The layers in one ink and its gaps: the thing that another stands on, over or inside."""
    roles = {"accent|gap": "gap", "gap": "gap", "accent|none": "none"}
    return [replace(layer, role=roles.get(layer.role, ink)) for layer in layers]


def draw(scene: Scene, seed: int, width_px: int = SIZE_PX, height_px: int = SIZE_PX) -> Image.Image:
    """The RGB picture of `scene`; the same seed gives the same pixels."""
    dice = random.Random(f"{scene}/{seed}")
    canvas = Canvas(scene, dice, width_px, height_px)
    layers = layers_of(scene, dice, canvas.wide, canvas.high)
    PAINTERS[scene.style](canvas, layers)
    return Image.fromarray((canvas.picture + 0.5).clip(0, 255).astype(np.uint8))


def _flat(canvas: Canvas, layers: list[Layer]) -> None:
    for layer in layers:
        if ink := canvas.role(layer.role):
            canvas.paint(canvas.coverage(layer), canvas.colour(ink))


def _pastel(canvas: Canvas, layers: list[Layer]) -> None:
    for layer in layers:
        if ink := canvas.role(layer.role):
            canvas.paint(canvas.blurred(canvas.coverage(layer), PASTEL_BLUR), canvas.colour(ink))


def _ink(canvas: Canvas, layers: list[Layer]) -> None:
    """Engraved: outlines; inside nothing, hatching or all ink, as the tint asks; in patterns a gap and a core."""
    patterned = canvas.motif in INK_CORED
    rows, columns = np.mgrid[: canvas.height_px, : canvas.width_px] / canvas.unit_px
    wave = np.sin(2 * np.pi * (rows + columns) / INK_PITCH / np.sqrt(2))
    slope = 2 * np.pi / INK_PITCH / canvas.unit_px  # of the wave, a pixel
    hatch = ((wave + 0.25) / slope + 0.5).clip(0, 1).astype(np.float32)
    for layer in layers:
        if ink := canvas.role(layer.role):
            whole = canvas.coverage(layer)
            canvas.paint(whole, canvas.ground)
            if ink == "gap":
                continue
            if not layer.polygons:
                canvas.paint(whole, canvas.colour(ink))
                canvas.paint(canvas.coverage(layer, INK_SLIT), canvas.ground)
            elif patterned:
                canvas.paint(canvas.inset(whole, INK_BLUR), canvas.colour(ink))
                canvas.paint(canvas.outline(whole, INK_BLUR), canvas.colour(ink))
            elif layer.solid or ink == "dark":
                canvas.paint(whole, canvas.colour(ink))
            else:
                inside = hatch * whole * (ink != "light")
                canvas.paint(np.maximum(inside, canvas.outline(whole, INK_BLUR)), canvas.colour(ink))


def _neon(canvas: Canvas, layers: list[Layer]) -> None:
    """Glowing tubes along the outlines; what is nearer hides what is behind it."""
    tubes: dict[str, np.ndarray] = {}
    cores: dict[str, np.ndarray] = {}
    for layer in layers:
        ink = canvas.role(layer.role)
        if not ink:
            continue
        ink = ink if ink == "accent" else "main"
        tube, core = _tube(canvas, layer)
        whole = canvas.coverage(layer) if layer.polygons else 0.0
        for kept in (tubes, cores):
            for name in kept:
                kept[name] *= 1 - whole
        tubes[ink] = np.maximum(tubes.get(ink, 0.0), tube)
        cores[ink] = np.maximum(cores.get(ink, 0.0), core)
    for ink, tube in tubes.items():
        canvas.paint(canvas.blurred(tube, NEON_GLOW_BLUR) * NEON_GLOW, canvas.colour(ink))
    for ink, tube in tubes.items():
        colour = canvas.colour(ink)
        canvas.paint(tube, colour)
        canvas.paint(cores[ink] * NEON_CORE, np.full(3, 255, np.float32))


def _tube(canvas: Canvas, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """A tube along the layer's outline or strokes, and the bright thread in it."""
    if not layer.polygons:
        return canvas.coverage(layer, 0.5), canvas.coverage(layer, 0.14)
    whole = canvas.coverage(layer)
    if layer.solid:
        return whole, canvas.inset(whole, NEON_BLUR) * NEON_PANEL
    return canvas.outline(whole, NEON_BLUR), canvas.outline(whole, NEON_BLUR, 0.08)


def _stained_glass(canvas: Canvas, layers: list[Layer]) -> None:
    """Panes between dark leads: around every shape, and in rings and rays on the ground."""
    rows, columns = np.mgrid[: canvas.height_px, : canvas.width_px] / canvas.unit_px
    x, y = columns - canvas.wide / 2, rows - canvas.high / 2
    distance, angle = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi) * LEAD_SECTORS
    ring = sum((distance > radius).astype(int) for radius in LEAD_RINGS)
    pane = ((np.floor(angle).astype(int) * 7 + ring * 5) % 4 - 1.5) / 1.5
    to_ray = np.abs(angle - np.round(angle)) / LEAD_SECTORS * 2 * np.pi * distance
    to_lead = np.minimum.reduce([to_ray, *(np.abs(distance - radius) for radius in LEAD_RINGS)])
    leads = ((LEAD_WIDTH / 2 - to_lead) * canvas.unit_px + 0.5).clip(0, 1) * (distance > LEAD_RINGS[0] * 0.9)
    canvas.picture = _tinted(canvas.picture, pane)
    canvas.paint(leads.astype(np.float32), np.array(LEAD, np.float32))
    for layer in layers:
        if ink := canvas.role(layer.role):
            whole = canvas.coverage(layer)
            canvas.paint(whole, _tinted(np.broadcast_to(canvas.colour(ink), canvas.picture.shape), pane))
            if not layer.solid:
                canvas.paint(canvas.outline(whole, LEAD_BLUR), np.array(LEAD, np.float32))


def _tinted(levels: np.ndarray, pane: np.ndarray) -> np.ndarray:
    """`levels` (h, w, 3) lighter or darker by `pane` (h, w), -1..1."""
    lab = palette.oklab(levels)
    lab[..., 0] += FACET_TINT * pane
    return palette.srgb(lab).astype(np.float32)


PAINTERS = {"flat": _flat, "ink": _ink, "pastel": _pastel, "neon": _neon, "stained glass": _stained_glass}
