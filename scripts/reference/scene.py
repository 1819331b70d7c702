"""What is in a picture, in words; random scenes, and which combinations training never sees."""

import functools
import hashlib
import random
from dataclasses import dataclass

from .fields import LANDSCAPES, PATTERNS
from .palette import PALETTE
from .shapes import CENTREPIECES, SHAPES

MOTIFS = (*SHAPES, *CENTREPIECES, *LANDSCAPES, *PATTERNS)
STYLES = ("flat", "ink", "pastel", "neon")
ADAPTER_STYLE = "stained glass"  # drawn, but taught to the style adapter alone
SIZES = ("small", "large")
COUNTS = (2, 3, 5)
RELATIONS = ("on", "over", "inside")

UNDER = ("circle", "square", "hexagon", "diamond", "heart", "star", "flower", "cloud")  # something lies on it
AROUND = ("circle", "square", "triangle", "hexagon", "diamond", "heart")  # something fits inside
BELOW = ("hills", "waves", "skyline")  # something hangs over it
ABOVE = ("circle", "star", "heart", "cloud", "crescent moon", "butterfly", "diamond")

FULL_FIELD_MOTIFS = frozenset(PATTERNS) - {"bubbles", "grid", "polka dots"}
"""Patterns that fill the picture half and half: which colour is in front cannot be seen."""

HELD_OUT_IN = 12  # one combination of motif and colours in so many is never trained on

STYLE_SHARES = (0.55, 0.15, 0.15, 0.15)  # in STYLES' order
ACCENT_SHARE = 0.15
FADE_SHARE = 0.1
SIZE_SHARE = 0.22  # of the countable motifs
COUNT_SHARE = 0.2
RELATION_SHARE = 0.14


@dataclass(frozen=True)
class Scene:
    """One picture in words; names are from MOTIFS, PALETTE, STYLES, SIZES, COUNTS and RELATIONS.

    `accent` is the second colour of a two-colour palette, `fade` the colour at the foot of a gradient background.
    With a `relation`, the motif stands on, over or inside `other`, which has the colour `accent`.
    """

    motif: str
    foreground: str
    background: str
    style: str = "flat"
    accent: str | None = None
    fade: str | None = None
    size: str | None = None
    count: int = 1
    relation: str | None = None
    other: str | None = None

    @property
    def held_out(self) -> bool:
        """Whether this motif in these colours is kept for the evaluation."""
        return _held_out(self.motif, self.foreground, self.background)


@functools.cache
def _held_out(*names: str) -> bool:
    return hashlib.sha256("/".join(names).encode()).digest()[0] % HELD_OUT_IN == 0


def random_scene(dice: random.Random, held_out: bool = False, motif: str | None = None) -> Scene:
    """A scene of the training world or, with `held_out`, one whose motif and colours training never combines."""
    while True:
        scene = _any_scene(dice, motif or dice.choice(MOTIFS))
        if scene.held_out == held_out:
            return scene


def _any_scene(dice: random.Random, motif: str) -> Scene:
    foreground, background, accent, fade = dice.sample(list(PALETTE), 4)
    style = dice.choices(STYLES, STYLE_SHARES)[0]
    size = relation = other = None
    count = 1
    if motif in SHAPES:
        lot = dice.random()
        if lot < RELATION_SHARE:
            relation = dice.choice(RELATIONS if motif in ABOVE else ("on", "inside"))
            below = BELOW if dice.random() < 0.5 else UNDER
            others = {"on": UNDER, "over": below, "inside": AROUND}[relation]
            other = dice.choice([name for name in others if name != motif])
            return Scene(motif, foreground, background, style, accent, relation=relation, other=other)
        if lot < RELATION_SHARE + COUNT_SHARE:
            count = dice.choice(COUNTS)
        elif lot < RELATION_SHARE + COUNT_SHARE + SIZE_SHARE:
            size = dice.choice(SIZES)
    lot = dice.random()
    has_accent = lot < ACCENT_SHARE
    has_fade = ACCENT_SHARE <= lot < ACCENT_SHARE + FADE_SHARE and motif not in FULL_FIELD_MOTIFS
    return Scene(
        motif,
        foreground,
        background,
        style,
        accent if has_accent else None,
        fade if has_fade else None,
        size,
        count,
    )
