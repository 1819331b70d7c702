"""The trained parts as one diffusers folder that the stock pipelines load, and pictures drawn by it."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image

from protocol.wire.noise import normals

from . import autoencoder, captions, colours, data, denoiser, tokens
from .latents import Size
from .scene import COUNTS, MOTIFS, RELATIONS, STYLES, Scene, random_scene
from .shapes import SHAPES

PREVIEW_PICTURES = 384
STEPS, GUIDANCE = 12, 2.0  # what the card recommends
SHEET_COLUMNS = 9
SAMPLERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}


def export(work: Path, folder: Path) -> None:
    """Write the pipeline and its preview projection to `folder`, from whatever has been trained so far.

    The UNet and the autoencoder are stored in half precision, which diffusers widens when it loads them bare.
    transformers keeps what it finds, so the small text encoder is stored in single precision.
    """
    unet, text_encoder, factor = denoiser.load_averaged(work)
    vae = autoencoder.load(work, "cpu")
    vae.register_to_config(scaling_factor=factor)
    preview = fit_preview(vae, factor)
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=text_encoder,
        tokenizer=tokens.load(work / "tokenizer"),
        unet=unet.half(),
        scheduler=denoiser.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    _drop_config_entry(folder / "vae" / "config.json", "block_out_channels")
    for name in tokens.OLDER_FILES:
        shutil.copy(work / "tokenizer" / name, folder / "tokenizer" / name)
    (folder / "preview.json").write_text(json.dumps(preview, indent=2) + "\n")


def _drop_config_entry(path: Path, name: str) -> None:
    """AutoencoderTiny writes an entry that it complains of when it reads it back."""
    entries = json.loads(path.read_text())
    entries.pop(name, None)
    path.write_text(json.dumps(entries, indent=2) + "\n")


def fit_preview(vae: AutoencoderTiny, factor: float) -> dict[str, list]:
    """Least squares from scaled latents to the mean colour 0..1 of the 8 x 8 pixels that each stands for."""
    pixels = autoencoder.levels(data.unseen_pictures(PREVIEW_PICTURES, autoencoder.LARGE_PX))
    with torch.no_grad():
        latents = vae.encode(pixels).latents * factor
    means = torch.nn.functional.avg_pool2d(pixels / 2 + 0.5, autoencoder.CELL_PX)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    solution = torch.linalg.lstsq(inputs, means.permute(0, 2, 3, 1).reshape(-1, 3)).solution
    rows = [[round(value, 5) for value in row] for row in solution.tolist()]
    return {"weights": rows[:-1], "bias": rows[-1]}


def load_pipeline(folder: Path, sampler: str = "ddim", device: str = "cpu") -> StableDiffusionPipeline:
    """The stock pipeline on `folder`, its sampler built from the folder's own scheduler config."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(device)
    pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def initial_latents(seed: int, size: Size) -> torch.Tensor:
    """What a peer starts from: `noise/1`, (1, 4, h, w)."""
    shape = 1, 4, size.height // autoencoder.CELL_PX, size.width // autoencoder.CELL_PX
    numbers = normals(seed, int(np.prod(shape)))
    return torch.from_numpy(np.frombuffer(numbers, "<f4").copy()).reshape(shape)


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seed: int,
    size: Size,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture a prompt, one at a time as a peer draws them; picture k starts from the noise of `seed` + k."""
    pictures: list[Image.Image] = []
    for k, prompt in enumerate(prompts):
        pictures += pipeline(
            prompt,
            width=size.width,
            height=size.height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=initial_latents(seed + k, size).to(pipeline.device),
        ).images
    return pictures


PAIRS = (
    *("gold on navy", "red on white", "teal on black", "white on purple", "orange on navy", "green on white"),
    *("pink on blue", "yellow on black", "sky blue on navy", "purple on yellow", "white on red"),
    *("navy on orange", "lime on black", "brown on pink"),
)
"""Colours that go well together, foreground and background."""


def sheet_scenes() -> list[Scene]:
    """Every motif flat, then some of every style, number, size and relation."""
    dice = random.Random("sheet")

    def pair(k: int) -> tuple[str, str]:
        front, back = PAIRS[k % len(PAIRS)].split(" on ")
        return front, back

    scenes = [Scene(motif, *pair(k)) for k, motif in enumerate(MOTIFS)]
    for style in STYLES[1:]:
        scenes += [Scene(dice.choice(MOTIFS), *pair(dice.randrange(99)), style=style) for _ in range(5)]
    scenes += [Scene(dice.choice(list(SHAPES)), *pair(k), count=count) for k, count in enumerate(COUNTS)]
    for relation in RELATIONS:
        while (
            scene := random_scene(dice, motif="star" if relation == "over" else None)
        ).relation != relation:
            pass
        scenes.append(scene)
    return scenes


def draw_sheet(folder: Path, path: Path, size: Size, seed: int = 3) -> str:
    """The scenes of `sheet_scenes`, asked for in words, as one PNG; in words, how many show the asked colours."""
    dice = random.Random("sheet captions")
    scenes = sheet_scenes()
    pictures = generate(load_pipeline(folder), [captions.phrase(scene, dice) for scene in scenes], seed, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures).save(path)
    right = sum(colours.shows(picture, scene) for picture, scene in zip(pictures, scenes, strict=True))
    return f"{right} of {len(scenes)} pictures show the asked colours: {path}"


def contact_sheet(pictures: list[Image.Image], columns: int = SHEET_COLUMNS) -> Image.Image:
    """Pictures of one size side by side, row after row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (width * columns, height * rows))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (width * (number % columns), height * (number // columns)))
    return whole
