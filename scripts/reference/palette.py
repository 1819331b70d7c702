"""Sixteen colours that stand apart, and OKLab, the space in which "apart" and "a little lighter" are measured."""

import functools

import numpy as np

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (208, 26, 40),
    "orange": (255, 112, 14),
    "gold": (198, 154, 40),
    "yellow": (255, 228, 60),
    "lime": (152, 218, 44),
    "green": (22, 122, 54),
    "teal": (0, 158, 150),
    "sky blue": (116, 198, 252),
    "blue": (32, 82, 226),
    "navy": (18, 26, 88),
    "purple": (124, 42, 178),
    "pink": (250, 138, 192),
    "brown": (104, 58, 28),
    "grey": (138, 138, 146),
    "white": (250, 249, 246),
    "black": (12, 12, 16),
}
LEAST_DISTANCE = 0.11  # between any two of them, in OKLab; 0.02 is about the least that is noticed
PASTEL_WHITE_SHARE = 0.3  # how much white a pastel holds, in sRGB levels

_TO_CONES = np.array(
    [
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 1.9779984951, 0.0259040371],
        [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660],
    ]
)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB levels 0..255 (..., 3) to OKLab, in which distances are about as seen (Ottosson 2020)."""
    level = np.asarray(rgb, np.float64) / 255
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_CONES) @ _TO_LAB


def srgb(lab: np.ndarray) -> np.ndarray:
    """OKLab (..., 3) to sRGB levels 0..255 as floats, cut to the gamut."""
    linear = ((lab @ np.linalg.inv(_TO_LAB)) ** 3 @ np.linalg.inv(_TO_CONES)).clip(0, 1)
    level = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return level * 255


def colours(style: str) -> np.ndarray:
    """The palette as `style` shows it, (16, 3) sRGB levels in PALETTE's order."""
    levels = np.array(list(PALETTE.values()), np.float64)
    return levels + (255 - levels) * PASTEL_WHITE_SHARE if style == "pastel" else levels


@functools.cache
def contrast(one: str, other: str) -> float:
    """The OKLab distance of two colours by name."""
    pair = oklab(np.array([PALETTE[one], PALETTE[other]]))
    return float(np.linalg.norm(pair[0] - pair[1]))


def least_distance(levels: np.ndarray) -> float:
    """The least OKLab distance between two of `levels` (n, 3)."""
    lab = oklab(levels)
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return float(distance[~np.eye(len(lab), dtype=bool)].min())
