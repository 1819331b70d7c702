"""A small picture in text: one half block, two pixels, in each cell."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

MAX_COLUMNS = 32
MAX_ROWS = 16
_UPPER_HALF = "▀"


def shrink(width: int, height: int, rgb: bytes, columns: int, rows: int) -> list[list[tuple[int, int, int]]]:
    """Rows of mean RGB8 colours: at most `columns` x `rows` of them, in the picture's shape.

    `rgb` is width x height x 3 bytes; ValueError if it is not.
    """
    if width < 1 or height < 1 or len(rgb) != 3 * width * height:
        raise ValueError(f"{len(rgb)} bytes are not {width}x{height} RGB pixels")
    scale = max(1.0, width / columns, height / rows)
    wide, high = max(1, int(width / scale)), max(1, int(height / scale))
    return [
        [_mean(width, rgb, _part(x, wide, width), _part(y, high, height)) for x in range(wide)]
        for y in range(high)
    ]


def half_blocks(
    width: int, height: int, rgb: bytes, columns: int = MAX_COLUMNS, rows: int = MAX_ROWS
) -> "Text":
    """The picture in at most `columns` x `rows` cells."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    pixels = shrink(width, height, rgb, columns, 2 * rows)
    text = Text(no_wrap=True)
    for y in range(0, len(pixels), 2):
        if y:
            text.append("\n")
        for x, above in enumerate(pixels[y]):
            below = Color.from_rgb(*pixels[y + 1][x]) if y + 1 < len(pixels) else None
            text.append(_UPPER_HALF, Style(color=Color.from_rgb(*above), bgcolor=below))
    return text


def _part(index: int, parts: int, size: int) -> range:
    return range(index * size // parts, max((index + 1) * size // parts, index * size // parts + 1))


def _mean(width: int, rgb: bytes, xs: range, ys: range) -> tuple[int, int, int]:
    red = green = blue = 0
    for y in ys:
        for at in range(3 * (y * width + xs.start), 3 * (y * width + xs.stop), 3):
            red, green, blue = red + rgb[at], green + rgb[at + 1], blue + rgb[at + 2]
    pixels = len(xs) * len(ys)
    return red // pixels, green // pixels, blue // pixels
