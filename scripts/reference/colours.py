"""Which palette colours a picture shows, in front and behind, as the eye would group them."""

import numpy as np
from PIL import Image

from .art import FULL_FIELD_MOTIFS, PALETTE, Scene

EDGE_PX = 6  # width of the frame along the upper edge in which the background shows


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB levels 0..255 (..., 3) to OKLab, in which distances are about as seen (Ottosson 2020)."""
    level = rgb.astype(np.float64) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def palette_names(picture: Image.Image) -> np.ndarray:
    """The nearest palette colour's index for every pixel, (h, w)."""
    palette = oklab(np.array(list(PALETTE.values())))
    pixels = oklab(np.asarray(picture.convert("RGB")))
    return ((pixels[:, :, None] - palette) ** 2).sum(-1).argmin(-1)


def seen_colours(picture: Image.Image) -> tuple[str, str]:
    """(foreground, background): behind fills the upper frame, in front fills most of the rest."""
    names, indexes = list(PALETTE), palette_names(picture)
    half = indexes.shape[0] // 2
    frame = np.concatenate(
        [indexes[:EDGE_PX].ravel(), indexes[:half, :EDGE_PX].ravel(), indexes[:half, -EDGE_PX:].ravel()]
    )
    counts = np.bincount(indexes.ravel(), minlength=len(names))
    background = int(np.bincount(frame, minlength=len(names)).argmax())
    counts[background] = 0
    return names[int(counts.argmax())], names[background]


def shows(picture: Image.Image, scene: Scene) -> bool:
    """Whether both asked colours dominate; which is in front counts only where it can be seen."""
    foreground, background = seen_colours(picture)
    if scene.motif in FULL_FIELD_MOTIFS:
        return {foreground, background} == {scene.foreground, scene.background}
    return (foreground, background) == (scene.foreground, scene.background)
