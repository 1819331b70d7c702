"""The training set: scenes with their captions, one JSON list a line; pictures are redrawn from the seed."""

import json
import random
from pathlib import Path

import numpy as np
import torch

from . import art, captions

CAPTIONS_PER_SCENE = 6


def write_scenes(path: Path, count: int, seed: int) -> None:
    """`count` scenes, none of them held out, each with CAPTIONS_PER_SCENE captions."""
    dice = random.Random(seed)
    held_out = set(art.HELD_OUT_SCENES)
    with path.open("w") as file:
        for number in range(count):
            scene = art.random_scene(dice)
            while scene in held_out:
                scene = art.random_scene(dice)
            texts = [captions.caption(scene, dice) for _ in range(CAPTIONS_PER_SCENE)]
            row = [scene.motif, scene.foreground, scene.background, number, texts]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_scenes(path: Path) -> tuple[list[tuple[art.Scene, int]], list[list[str]]]:
    """Scenes with their drawing seeds, and the captions of each."""
    drawn, texts = [], []
    for line in path.read_text().splitlines():
        motif, foreground, background, seed, caption_list = json.loads(line)
        drawn.append((art.Scene(motif, foreground, background), seed))
        texts.append(caption_list)
    return drawn, texts


def pictures(drawn: list[tuple[art.Scene, int]]) -> torch.Tensor:
    """The scenes' pictures as (n, 3, SIZE_PX, SIZE_PX) uint8."""
    pixels = np.stack([np.asarray(art.draw(scene, seed)) for scene, seed in drawn])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
