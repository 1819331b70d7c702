"""Which palette colours a picture shows, in front and behind, as the eye would group them."""

import numpy as np
from PIL import Image

from .palette import PALETTE, colours, oklab
from .scene import ADAPTER_STYLE, FULL_FIELD_MOTIFS, Scene

EDGE_SHARE = 0.03  # of the shorter side: the frame in which the background shows
LEADS = "black"  # nearest to the colour of stained glass's leads
NEAR = 0.06  # OKLab distance from a palette colour up to which a pixel has that colour: glows and edges have none


def nearest(picture: Image.Image, style: str) -> tuple[np.ndarray, np.ndarray]:
    """For every pixel the index of the nearest palette colour, and whether it is near; both (h, w)."""
    palette = oklab(colours(style))
    pixels = oklab(np.asarray(picture.convert("RGB")))
    distance = np.linalg.norm(pixels[:, :, None] - palette, axis=-1)
    return distance.argmin(-1), distance.min(-1) < NEAR


def _ranked(names: np.ndarray) -> list[str]:
    counts = np.bincount(names.ravel(), minlength=len(PALETTE))
    all_names = list(PALETTE)
    return [all_names[k] for k in counts.argsort()[::-1] if counts[k]]


def seen_colours(picture: Image.Image, scene: Scene) -> tuple[str, str]:
    """(foreground, background) as palette names: behind fills the upper frame, in front most of the rest.

    The scene's second colours, if it asks for any, are left out of the count, and so is what lies between the two
    ends of a gradient.
    """
    names, near = nearest(picture, scene.style)
    height, width = names.shape
    edge, half = max(2, round(EDGE_SHARE * min(width, height))), height // (4 if scene.fade else 2)
    frame = np.concatenate([names[:edge].ravel(), names[:half, :edge].ravel(), names[:half, -edge:].ravel()])
    background = _ranked(frame)[0]
    passed = {background, scene.accent, scene.fade, *_between(scene)}
    if scene.style == ADAPTER_STYLE and scene.foreground != LEADS:
        passed.add(LEADS)
    for ranked in (_ranked(names[near]), _ranked(names)):
        for name in ranked:
            if name not in passed:
                return name, background
    return background, background


def _between(scene: Scene) -> set[str]:
    """The palette colours that a gradient passes on its way, apart from the one asked for in front."""
    if not scene.fade:
        return set()
    palette = oklab(colours(scene.style))
    all_names = list(PALETTE)
    start, end = (palette[all_names.index(name)] for name in (scene.background, scene.fade))
    way = start + np.linspace(0, 1, 64)[:, None] * (end - start)
    passed = {all_names[k] for k in ((way[:, None] - palette) ** 2).sum(-1).argmin(-1)}
    return passed - {scene.foreground}


def shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether both asked colours dominate; which is in front counts only where it can be seen."""
    foreground, background = seen_colours(picture, scene)
    asked = {scene.foreground, scene.background}
    if scene.motif in FULL_FIELD_MOTIFS:
        return {foreground, background} == asked
    return (foreground, background) == (scene.foreground, scene.background)
