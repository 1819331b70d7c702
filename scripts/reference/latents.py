"""Drawings as latents, encoded once: a folder of chunks for every size, which training reads as they appear."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from . import autoencoder, data
from .training import save_array

CHUNK = 2048  # pictures in a file
FIRST_SEED = 2_000_000
ENCODED_AT_ONCE = 32


@dataclass(frozen=True)
class Size:
    """Of a picture, in pixels; written as 256x128."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: str) -> "Size":
        width, _, height = text.partition("x")
        return cls(int(width), int(height or width))

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def _chunk_path(work: Path, size: Size, number: int, style: str | None) -> Path:
    name = f"{size}-{style}" if style else str(size)
    return work / "latents" / name / f"{number:04}.npy"


def encode(
    work: Path, size: Size, chunks: int, device: str, bfloat16: bool, style: str | None = None
) -> None:
    """Write the first `chunks` chunks of `size` that are not there yet; a chunk is (CHUNK, 4, h, w) float16, unscaled.

    Picture k of chunk c shows scene c * CHUNK + k, in its own style or all in `style`; every size has drawings of
    its own.
    """
    model = autoencoder.load(work, device).to(memory_format=torch.channels_last)
    scenes = data.read_scenes(work / "scenes.jsonl")
    for number in range(chunks):
        path = _chunk_path(work, size, number, style)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = []
        starts = range(number * CHUNK, (number + 1) * CHUNK, ENCODED_AT_ONCE)
        for start in track(starts, f"latents {size}, chunk {number + 1} of {chunks}"):
            some = scenes[start : start + ENCODED_AT_ONCE]
            if style:
                some = [replace(scene, style=style) for scene in some]
            first_seed = FIRST_SEED + 1_000 * size.width + size.height + start
            pictures = data.draw_pictures(some, first_seed, size.width, size.height)
            pixels = autoencoder.levels(pictures).to(device).contiguous(memory_format=torch.channels_last)
            with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                parts.append(model.encode(pixels).latents.contiguous().half().cpu())
        save_array(path, torch.cat(parts).numpy())


class Latents:
    """All chunks of some sizes that are on disk, drawn from at random."""

    def __init__(self, work: Path, sizes: list[Size], style: str | None = None) -> None:
        self._work = work
        self._sizes = sizes
        self._style = style
        self._chunks: dict[Size, list[np.ndarray]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Map the chunks that have appeared since."""
        for size in self._sizes:
            kept = self._chunks.setdefault(size, [])
            while (path := _chunk_path(self._work, size, len(kept), self._style)).exists():
                kept.append(np.load(path, mmap_mode="r"))
            if not kept:
                raise FileNotFoundError(f"no latents of {size}: run the stage latents --size {size} first")

    def count(self, size: Size) -> int:
        return CHUNK * len(self._chunks[size])

    def draw(self, size: Size, count: int) -> tuple[torch.Tensor, list[int]]:
        """(count, 4, h, w) float32 latents, unscaled, and the numbers of their scenes."""
        chunks = self._chunks[size]
        numbers = torch.randint(CHUNK * len(chunks), (count,)).tolist()
        rows = np.stack([chunks[n // CHUNK][n % CHUNK] for n in numbers])
        return torch.from_numpy(rows).float(), numbers

    def spread(self, size: Size) -> float:
        """Standard deviation over the first chunk."""
        return float(np.std(self._chunks[size][0], dtype=np.float64))
