"""The demo's gallery: what is asked for, and the sheet of what came."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

PROMPTS = (
    "a gold spiral on navy",
    "a neon butterfly in pink on black",
    "a white crescent moon on purple",
    "orange waves on navy",
    "a pastel mushroom, red on sky blue",
    "a green tree on yellow",
    "a sunset over mountains in orange on purple",
    "red and white stripes",
    "a lime fish on blue",
    "a neon mandala, teal on black",
    "three red hearts on white",
    "an ink drawing of a leaf, green on white",
    "yellow polka dots on teal",
    "a night sky in yellow on navy",
    "a pink flower on brown",
    "a black and white checkerboard",
    "a sky blue flow field on navy",
    "a gold star inside a red circle on white",
)
FIRST_SEED = 1  # picture k has the seed FIRST_SEED + k: whoever asks gets the same sheet
COLUMNS, SIDE_PX, GAP_PX = 6, 192, 6


def write_sheet(pictures: Sequence[Path], path: Path) -> None:
    """All of them in rows of COLUMNS, SIDE_PX wide and high each, as PNG."""
    step_px = SIDE_PX + GAP_PX
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * step_px - GAP_PX, rows * step_px - GAP_PX), "white")
    for number, each in enumerate(pictures):
        with Image.open(each) as picture:
            small = picture.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        sheet.paste(small, (number % COLUMNS * step_px, number // COLUMNS * step_px))
    sheet.save(path, optimize=True)
