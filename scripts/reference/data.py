"""The training set: scenes written down once, their pictures drawn from the seed into files that are mapped into memory."""

import json
import os
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np

from . import art
from .scene import Scene, random_scene

UNSEEN_SEED = 10_000_000  # seeds from here on are never trained on


def write_scenes(path: Path, count: int, seed: int) -> None:
    """`count` scenes, none of them held out, one JSON object a line."""
    dice = random.Random(seed)
    with path.open("w") as file:
        for _ in range(count):
            entries = {name: value for name, value in asdict(random_scene(dice)).items() if value is not None}
            file.write(json.dumps(entries) + "\n")


def read_scenes(path: Path) -> list[Scene]:
    return [Scene(**json.loads(line)) for line in path.read_text().splitlines()]


def draw_pictures(scenes: list[Scene], first_seed: int, width_px: int, height_px: int) -> np.ndarray:
    """The scenes' pictures, (n, height_px, width_px, 3) uint8; scene k has the seed `first_seed` + k."""
    return np.stack(
        [np.asarray(art.draw(scene, first_seed + k, width_px, height_px)) for k, scene in enumerate(scenes)]
    )


def drawn_pictures(path: Path, scenes: list[Scene], first_seed: int, side_px: int) -> np.ndarray:
    """As `draw_pictures`, square, drawn once into the .npy file `path` and mapped from there."""
    if not path.exists():
        unfinished = path.with_suffix(".part")
        shape = (len(scenes), side_px, side_px, 3)
        pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        for k, scene in enumerate(scenes):
            pictures[k] = np.asarray(art.draw(scene, first_seed + k, side_px, side_px))
        pictures.flush()
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")


def unseen_pictures(count: int, side_px: int, seed: int = UNSEEN_SEED) -> np.ndarray:
    """Drawings that no training saw, (count, side_px, side_px, 3) uint8."""
    dice = random.Random(seed)
    return draw_pictures(
        [random_scene(dice, held_out=k % 2 == 0) for k in range(count)], seed, side_px, side_px
    )
