"""English captions for scenes: one picture can be asked for in many ways."""

import random
from dataclasses import dataclass

from .palette import contrast
from .scene import FULL_FIELD_MOTIFS, Scene

# Singular and plural; the first name is the most usual.  Motifs without a plural are named alike for any number.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "circle": (("circle", "circles"), ("disc", "discs"), ("round shape", "round shapes")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"), ("five-pointed star", "five-pointed stars")),
    "hexagon": (("hexagon", "hexagons"), ("six-sided shape", "six-sided shapes")),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "crescent moon": (("crescent moon", "crescent moons"), ("moon", "moons"), ("crescent", "crescents")),
    "heart": (("heart", "hearts"), ("love heart", "love hearts")),
    "flower": (("flower", "flowers"), ("blossom", "blossoms"), ("daisy", "daisies")),
    "leaf": (("leaf", "leaves"),),
    "tree": (("tree", "trees"),),
    "cloud": (("cloud", "clouds"),),
    "butterfly": (("butterfly", "butterflies"),),
    "mushroom": (("mushroom", "mushrooms"), ("toadstool", "toadstools")),
    "fish": (("fish", "fish"),),
    "spiral": (("spiral", ""), ("swirl", ""), ("helix", "")),
    "concentric circles": (
        ("", "concentric circles"),
        ("", "rings"),
        ("", "concentric rings"),
        ("target", ""),
    ),
    "mandala": (("mandala", ""), ("rosette", "")),
    "sunset over mountains": (
        *(
            ("sunset over mountains", ""),
            ("", "mountains at sunset"),
            ("", "mountains"),
            ("mountain sunset", ""),
        ),
        ("sunset over the mountains", ""),
    ),
    "hills": (("", "hills"), ("", "rolling hills"), ("hilly landscape", ""), ("", "dunes")),
    "night sky": (("night sky", ""), ("starry night", ""), ("night sky with a moon and stars", "")),
    "skyline": (("skyline", ""), ("city skyline", ""), ("city", ""), ("", "skyscrapers")),
    "waves": (("", "waves"), ("", "ocean waves"), ("sea", ""), ("", "sea waves")),
    "stripes": (("", "stripes"), ("", "vertical stripes"), ("striped pattern", "")),
    "diagonal stripes": (("", "diagonal stripes"), ("", "slanted stripes"), ("diagonal stripe pattern", "")),
    "checkerboard": (("checkerboard", ""), ("chessboard", ""), ("", "checks"), ("checkered pattern", "")),
    "polka dots": (("", "polka dots"), ("", "dots"), ("polka dot pattern", ""), ("dotted pattern", "")),
    "zigzag": (("zigzag", ""), ("", "zigzags"), ("", "chevrons"), ("zigzag pattern", "")),
    "grid": (("grid", ""), ("lattice", ""), ("grid pattern", ""), ("", "grid lines")),
    "flow field": (("flow field", ""), ("", "flowing lines"), ("", "wavy lines"), ("", "flow lines")),
    "bubbles": (("", "bubbles"), ("", "balls"), ("", "soap bubbles")),
    "starburst": (("starburst", ""), ("sunburst", ""), ("", "rays"), ("", "sun rays")),
}
ALSO_CALLED = {
    "gold": ("gold", "gold", "golden"),
    "grey": ("grey", "gray"),
    "navy": ("navy", "navy", "navy blue", "dark blue"),
    "teal": ("teal", "teal", "turquoise"),
    "sky blue": ("sky blue", "light blue", "pale blue"),
    "purple": ("purple", "purple", "violet"),
    "lime": ("lime", "lime green", "light green"),
    "green": ("green", "green", "dark green"),
}
SIZES = {
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
}
COUNTS = {2: ("two", "two", "2", "a pair of"), 3: ("three", "three", "3"), 5: ("five", "five", "5")}
RELATIONS = {
    "on": ("on", "on top of", "in front of"),
    "over": ("over", "above", "hovering over"),
    "inside": ("inside", "in", "within"),
}
STYLE_BEFORE = {
    "flat": ("flat",),
    "ink": ("ink", "ink-drawn", "hatched"),
    "pastel": ("pastel", "soft pastel"),
    "neon": ("neon", "glowing neon", "glowing"),
}
STYLE_AFTER = {
    "flat": ("flat", "flat colours", "flat style", "flat design", "flat colors"),
    "ink": ("ink", "ink style", "in ink", "ink drawing", "pen and ink", "as an engraving"),
    "pastel": ("pastel", "pastel style", "in pastel", "pastel colours", "soft pastels", "pastel colors"),
    "neon": ("neon", "neon style", "in neon", "neon light", "neon sign", "as a neon sign"),
}
FLAT_SAID = 0.2  # how often a caption says that a flat picture is flat

# The plain ones are said most; the others are wordings of them that some people use.
PLAIN_GROUND = (
    *("{s} on {b}", "{s} on {b}", "{s} on {a_b} background", "{s} on {a_b} background"),
    *("{s}, {b} background", "{s} against {b}", "{s} against {a_b} background", "{s} with {a_b} background"),
    *("{a_b} background with {s}", "{b} background, {s}", "{s} {b} background", "on {b}, {s}"),
    *("{s} on {a_b} ground", "{s} in front of {b}"),
)
OTHER_GROUND = (
    *("{s} placed on {b}", "{s} shown on {b}", "{s} set on {b}", "{s} upon {b}", "{s} drawn on {b}"),
    *("{s} on plain {b}", "{s} on solid {b}", "{s} on a plain {b} background", "{s} over plain {b}"),
    *("{s} over {a_b} background", "{s} over {b}", "{s} on {a_b} surface", "{s} surrounded by {b}"),
    *("{s} on {a_b} backdrop", "{s} against {a_b} backdrop", "{s}, {b} backdrop", "{a_b} backdrop with {s}"),
    *("{b} behind {s}", "{a_b} background behind {s}", "{s} with {b} behind it", "{s}, {b} behind"),
    *("{s}, background {b}", "{s}; the background is {b}", "{s} and {a_b} background"),
)
WITH_GROUND = (*PLAIN_GROUND, *PLAIN_GROUND, *OTHER_GROUND)
FADES = (
    *(
        "{b} to {e} gradient",
        "gradient from {b} to {e}",
        "gradient of {b} to {e}",
        "background fading from {b} to {e}",
    ),
    *("{b} and {e} gradient", "background that goes from {b} to {e}"),
)
WITH_FADE = ("{s} on a {g}", "{s}, {g}", "{s} against a {g}", "a {g} with {s}")
TWO_COLOURS = (
    *("{f} and {c} {m}", "{f} and {c} {m}", "{m} in {f} and {c}", "{f} {m} with {c}", "{m} of {f} and {c}"),
    *("{f} {m} with {c} details", "{f} {m} with {a_c} accent"),
)
ONE_COLOUR = ("{f} {m}", "{f} {m}", "{f} {m}", "{f} {m}", "{m} in {f}", "{f} coloured {m}")
TWO_COLOURED = ("{f} and {c} {m}", "{f} and {c} {m}", "{f} and {c} {m}", "{m} in {f} and {c}")
OPENINGS = (
    *("a picture of ", "generative art: ", "a poster with ", "a drawing of ", "an image of ", "a print of "),
    *(
        "minimalist art of ",
        "abstract art, ",
        "draw ",
        "please draw ",
        "an illustration of ",
        "a painting of ",
    ),
)
ENDINGS = (
    *(
        ", minimal",
        ", generative art",
        ", crisp",
        ", vector art",
        ", poster",
        ", simple shapes",
        ", abstract",
    ),
    *(", clean lines", ", high quality", ", bold", ", wallpaper", ", beautiful", ", modern design", ", 4k"),
    *(", album cover", ", for my friend", "!", "."),
)
STRAY_SYLLABLES = "ka lo mi ren tus vor ze qui é ñ pa 7 42 ß 花 🙂 dre shi ul ock wy ber fen".split()
OPENING_SHARE, ENDING_SHARE, STRAY_SHARE, CAPITAL_SHARE = 0.15, 0.15, 0.05, 0.1
WITHOUT_GROUND, WITHOUT_COLOURS, PLEASING_CONTRAST = 0.07, 0.07, 0.4
TWO_COLOURED_SHARE = 0.25  # of captions for patterns that fill the picture half and half

UNSEEN_GROUND = (
    *("{s} shown against {b}", "plain {b} behind {s}", "{s} placed on {a_b} backdrop"),
    *("{s} set against {a_b} ground", "{s} drawn over solid {b}", "{a_b} surface with {s}"),
)
"""Wordings that no training caption has: a third of the evaluation's prompts."""


@dataclass(frozen=True)
class Said:
    """How a caption names a thing: without its article, and whether it is many."""

    text: str
    plural: bool

    @property
    def with_article(self) -> str:
        return self.text if self.plural else article(self.text)


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def colour_name(colour: str, dice: random.Random) -> str:
    return dice.choice(ALSO_CALLED.get(colour, (colour,)))


def _name(motif: str, many: bool, dice: random.Random) -> Said:
    names = NAMES[motif]
    singular, plural = names[0] if dice.random() < 0.5 else dice.choice(names)
    wants_plural = (many or not singular) and plural
    return Said(plural if wants_plural else singular, bool(wants_plural))


def _subject(scene: Scene, dice: random.Random, style: str, coloured: bool) -> str:
    """The motif with its colours, size, number, and what it stands on, over or inside; article included."""
    name = _name(scene.motif, scene.count > 1, dice)
    two = scene.accent and not scene.relation
    grammar = dice.choice(TWO_COLOURS if two else ONE_COLOUR) if coloured else "{m}"
    accent = colour_name(scene.accent, dice) if scene.accent else ""
    text = grammar.format(
        f=colour_name(scene.foreground, dice), c=accent, a_c=article(accent) if accent else "", m=name.text
    )
    if scene.size:
        text = f"{dice.choice(SIZES[scene.size])} {text}"
    if style:
        text = f"{style} {text}"
    if scene.count > 1:
        text = f"{dice.choice(COUNTS[scene.count])} {text}"
    elif not name.plural:
        text = article(text)
    if scene.relation and scene.other:
        under = _name(scene.other, False, dice)
        other = Said(f"{accent} {under.text}" if coloured else under.text, under.plural)
        text = f"{text} {dice.choice(RELATIONS[scene.relation])} {other.with_article}"
    return text


def _is_two_coloured(scene: Scene) -> bool:
    return scene.motif in FULL_FIELD_MOTIFS and not (scene.accent or scene.fade)


def _two_coloured(scene: Scene, dice: random.Random, style: str) -> str:
    """A pattern of which nobody could say which colour is behind."""
    name = _name(scene.motif, False, dice)
    first, second = (colour_name(each, dice) for each in dice.sample((scene.foreground, scene.background), 2))
    text = dice.choice(TWO_COLOURED).format(f=first, c=second, m=name.text)
    text = f"{style} {text}" if style else text
    return text if name.plural else article(text)


def phrase(
    scene: Scene, dice: random.Random, grounds: tuple[str, ...] = WITH_GROUND, kind: str = "whole"
) -> str:
    """A caption of `kind` "whole", "no ground" (background unsaid) or "no colours"."""
    style_said = scene.style != "flat" or dice.random() < FLAT_SAID
    before = style_said and dice.random() < 0.5
    style = dice.choice(STYLE_BEFORE[scene.style]) if before else ""
    two_coloured = kind == "whole" and grounds is WITH_GROUND and _is_two_coloured(scene)
    two_coloured = two_coloured and dice.random() < TWO_COLOURED_SHARE
    text = (
        _two_coloured(scene, dice, style)
        if two_coloured
        else _subject(scene, dice, style, kind != "no colours")
    )
    if kind == "whole" and not two_coloured:
        back = colour_name(scene.background, dice)
        if scene.fade:
            fade = dice.choice(FADES).format(b=back, e=colour_name(scene.fade, dice))
            text = dice.choice(WITH_FADE).format(s=text, g=fade)
        else:
            text = dice.choice(grounds).format(s=text, b=back, a_b=article(back))
    if style_said and not before:
        text += f", {dice.choice(STYLE_AFTER[scene.style])}"
    return text


def caption(scene: Scene, dice: random.Random, whole: bool = False) -> str:
    """One way to ask for `scene`, perhaps with words that mean nothing.

    Unless `whole`, some leave the background or all colours open; only where the two colours go well together, so
    that what nobody asked for is pleasing.
    """
    lot = 1.0 if whole or contrast(scene.foreground, scene.background) < PLEASING_CONTRAST else dice.random()
    kind = "no ground" if lot < WITHOUT_GROUND else "whole"
    if WITHOUT_GROUND <= lot < WITHOUT_GROUND + WITHOUT_COLOURS:
        kind = "no colours"
    text = phrase(scene, dice, kind=kind)
    if dice.random() < OPENING_SHARE:
        text = dice.choice(OPENINGS) + text
    if dice.random() < ENDING_SHARE:
        text += dice.choice(ENDINGS)
    if dice.random() < STRAY_SHARE:  # words it does not know should not matter
        stray = "".join(dice.choices(STRAY_SYLLABLES, k=dice.randint(1, 3)))
        text = dice.choice((f"{stray} {text}", f"{text} {stray}", f"{text}, {stray}"))
    return text[0].upper() + text[1:] if dice.random() < CAPITAL_SHARE else text
