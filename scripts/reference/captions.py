"""English captions for scenes: one picture can be asked for in many ways."""

import random

from .art import Scene

MOTIF_NAMES: dict[str, tuple[str, ...]] = {
    "spiral": ("spiral", "spiral", "swirl"),
    "concentric circles": ("concentric circles", "rings", "concentric rings"),
    "flower": ("flower", "flower", "blossom"),
    "mandala": ("mandala", "mandala", "rosette"),
    "stripes": ("stripes", "vertical stripes"),
    "diagonal stripes": ("diagonal stripes", "slanted stripes"),
    "checkerboard": ("checkerboard", "checkerboard", "chessboard"),
    "sunset over mountains": ("sunset over mountains", "mountains at sunset", "mountain sunset"),
    "starburst": ("starburst", "starburst", "sunburst"),
    "waves": ("waves", "waves", "wavy lines"),
    "bubbles": ("bubbles", "dots", "bubbles"),
    "circle": ("circle", "circle", "disc"),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "crescent moon": ("crescent moon", "moon", "crescent"),
    "tree": ("tree",),
}
PLURALS = frozenset(
    {"concentric circles", "rings", "concentric rings", "stripes", "vertical stripes", "diagonal stripes"}
    | {"slanted stripes", "mountains at sunset", "waves", "wavy lines", "bubbles", "dots"}
)
ALSO_CALLED = {
    "grey": ("grey", "gray"),
    "navy": ("navy", "navy", "navy blue"),
    "teal": ("teal", "teal", "turquoise"),
}

WHOLE = (
    "{a_f_m} on {b}",
    "{a_f_m} on {a_b} background",
    "{f_m} on {b}",
    "{f_m} on {a_b} background",
    "{a_f_m}, {b} background",
    "{f_m}, {b} background",
    "{m}, {f} on {b}",
    "{a_m} in {f} on {b}",
    "{a_m} in {f} on {a_b} background",
    "{a_m} in {f} against {b}",
    "{a_b} background with {a_f_m}",
    "{b} background with {a_f_m}",
    "{a_f_m} against {a_b} background",
    "{a_f_m} over {b}",
    "{f} {m} {b} background",
    "{m} {f} {b}",
    "{a_m} drawn in {f}, on {a_b} ground",
    "on {b}, {a_f_m}",
)
WITHOUT_BACKGROUND = ("{a_f_m}", "{f_m}", "{a_m} in {f}", "{m}, {f}")
WITHOUT_COLOURS = ("{a_m}", "{m}", "{m} on {b}", "{a_m} on {a_b} background")
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
        ", flat colours",
        ", flat colors",
        ", generative art",
        ", crisp",
        ", vector art",
        ", poster",
    ),
    *(
        ", simple shapes",
        ", abstract",
        ", geometric",
        ", clean lines",
        ", high quality",
        ", bold",
        ", wallpaper",
    ),
    *(
        ", beautiful",
        ", modern design",
        ", screen print",
        ", 4k",
        ", album cover",
        ", for my friend",
        "!",
        ".",
    ),
)
PARTIAL_SHARE = 0.12
OPENING_SHARE = 0.15
ENDING_SHARE = 0.2
STRAY_WORD_SHARE = 0.06
STRAY_SYLLABLES = "ka lo mi ren tus vor ze qui é ñ pa 7 42 ß 花 🙂 dre shi ul ock wy ber fen".split()


def article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeio" else f"a {phrase}"


def caption(scene: Scene, dice: random.Random) -> str:
    """One way to ask for `scene`; most name both colours, PARTIAL_SHARE leave something open."""
    kind = dice.random()
    if kind < PARTIAL_SHARE / 2:
        text = phrase(scene, dice.choice(WITHOUT_BACKGROUND), dice)
    elif kind < PARTIAL_SHARE:
        text = phrase(scene, dice.choice(WITHOUT_COLOURS), dice)
    else:
        text = phrase(scene, dice.choice(WHOLE), dice)
    if dice.random() < OPENING_SHARE:
        text = dice.choice(OPENINGS) + text
    if dice.random() < ENDING_SHARE:
        text += dice.choice(ENDINGS)
    if dice.random() < STRAY_WORD_SHARE:  # words it does not know should not matter
        stray = "".join(dice.choices(STRAY_SYLLABLES, k=dice.randint(1, 3)))
        text = dice.choice((f"{stray} {text}", f"{text} {stray}", f"{text}, {stray}"))
    return text[0].upper() + text[1:] if dice.random() < 0.1 else text


def phrase(scene: Scene, grammar: str, dice: random.Random) -> str:
    """`grammar` filled in: m motif, f foreground, b background, a_ with its article where it takes one."""
    motif = dice.choice(MOTIF_NAMES[scene.motif])
    front = dice.choice(ALSO_CALLED.get(scene.foreground, (scene.foreground,)))
    back = dice.choice(ALSO_CALLED.get(scene.background, (scene.background,)))
    front_motif = f"{front} {motif}"
    plural = motif in PLURALS
    return grammar.format(
        m=motif,
        f=front,
        b=back,
        f_m=front_motif,
        a_m=motif if plural else article(motif),
        a_f_m=front_motif if plural else article(front_motif),
        a_b=article(back),
    )
