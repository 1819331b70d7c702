"""How good the exported folder is: colours and motifs as asked on held-out prompts, and the autoencoder's fidelity."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.progress import track
from torch import nn

from . import autoencoder, captions, classifier, colours, data, export
from .latents import Size
from .scene import ADAPTER_STYLE, MOTIFS, Scene, random_scene

FIDELITY_PICTURES = 256
SHEET_PICTURES, SHEET_COLUMNS, SHEET_SIDE_PX = 60, 10, 128


NATIVE = Size(256, 256)


@dataclass(frozen=True)
class Settings:
    """How the pictures are drawn."""

    sampler: str = "ddim"
    steps: int = export.STEPS
    guidance: float = export.GUIDANCE
    size: Size = NATIVE


FEW_STEPS = Settings(steps=4, guidance=1.0)


@dataclass(frozen=True)
class Verdict:
    """One prompt and what its picture showed."""

    prompt: str
    scene: Scene
    colours: tuple[str, str]
    colour_right: bool
    motif: str

    @property
    def motif_right(self) -> bool:
        return self.motif == self.scene.motif

    @property
    def both_right(self) -> bool:
        return self.colour_right and self.motif_right


def held_out_prompts(seed: int, count: int) -> list[tuple[Scene, str]]:
    """Combinations of motif and colours that training never saw, every motif as often, with a prompt each.

    Every third is worded as no training caption was.
    """
    dice = random.Random(f"prompts/{seed}")
    asked = []
    for number in range(count):
        scene = random_scene(dice, held_out=True, motif=MOTIFS[number % len(MOTIFS)])
        grounds = captions.UNSEEN_GROUND if number % 3 == 2 else captions.WITH_GROUND
        asked.append((scene, captions.phrase(scene, dice, grounds)))
    return asked


def first_noise(seed: int) -> int:
    """The first of the `noise/1` seeds that an evaluation draws with."""
    return random.Random(f"noise/{seed}").randrange(1 << 31)


def drawn(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, settings: Settings, title: str
) -> Iterator[Image.Image]:
    pipeline.scheduler = export.SAMPLERS[settings.sampler].from_config(pipeline.scheduler.config)
    for k, prompt in enumerate(track(prompts, title)):
        yield export.generate(
            pipeline, [prompt], first_noise(seed) + k, settings.size, settings.steps, settings.guidance
        )[0]


def judge(
    eye: nn.Sequential, asked: list[tuple[Scene, str]], pictures: list[Image.Image], styled: bool = False
) -> list[Verdict]:
    """What the pictures show; `styled` ones are judged in the colours that the style adapter's drawings have."""
    verdicts = []
    for (scene, prompt), picture, motif in zip(
        asked, pictures, classifier.seen_motifs(eye, pictures), strict=True
    ):
        judged = replace(scene, style=ADAPTER_STYLE) if styled else scene
        right = colours.shows(picture, judged)
        verdicts.append(Verdict(prompt, scene, colours.seen_colours(picture, judged), right, motif))
    return verdicts


def share(verdicts: list[Verdict], what: str) -> float:
    """Of `what`: "colour_right", "motif_right" or "both_right"."""
    return round(sum(getattr(each, what) for each in verdicts) / len(verdicts), 4)


def fidelity_db(pipeline: StableDiffusionPipeline) -> float:
    pictures = data.unseen_pictures(FIDELITY_PICTURES, autoencoder.LARGE_PX)
    return round(autoencoder.psnr_db(pipeline.vae, pictures), 2)


def save_sheet(pictures: list[Image.Image], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = [
        each.resize((SHEET_SIDE_PX, SHEET_SIDE_PX), Image.Resampling.BOX)
        for each in pictures[:SHEET_PICTURES]
    ]
    export.contact_sheet(small, SHEET_COLUMNS).save(path)
