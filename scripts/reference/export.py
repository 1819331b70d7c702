"""The trained parts as one diffusers folder that the stock StableDiffusionPipeline loads."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from PIL import Image

from . import art, autoencoder, data, denoiser, tokens

PREVIEW_SCENES = 512
CELL_PX = 8  # what one latent covers
SHEET_STEPS = 12
SHEET_GUIDANCE = 3.5
SAMPLERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}


def export(work: Path, folder: Path) -> None:
    """Write the pipeline and its preview projection to `folder`, from whatever has been trained so far.

    The UNet and the autoencoder are stored in half precision, which diffusers widens when it loads them bare.
    transformers keeps what it finds, so the small text encoder is stored in single precision.
    """
    unet, text_encoder = denoiser.load_averaged(work)
    vae = autoencoder.load(work, "cpu")
    latents = torch.load(work / "latents.pt", weights_only=True)
    factor = denoiser.scaling_factor(latents)
    vae.register_to_config(scaling_factor=factor)
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
    drawn, _ = data.read_scenes(work / "scenes.jsonl")
    preview = fit_preview(latents[:PREVIEW_SCENES].float() * factor, data.pictures(drawn[:PREVIEW_SCENES]))
    (folder / "preview.json").write_text(json.dumps(preview, indent=2) + "\n")


def _drop_config_entry(path: Path, name: str) -> None:
    """AutoencoderTiny writes an entry that it complains of when it reads it back."""
    entries = json.loads(path.read_text())
    entries.pop(name, None)
    path.write_text(json.dumps(entries, indent=2) + "\n")


def fit_preview(latents: torch.Tensor, pixels: torch.Tensor) -> dict[str, list]:
    """Least squares from scaled latents (n, 4, h, w) to the mean colour 0..1 of each 8 x 8 pixels."""
    colours = torch.nn.functional.avg_pool2d(pixels.float() / 255, CELL_PX)
    inputs = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    wanted = colours.permute(0, 2, 3, 1).reshape(-1, 3)
    solution = torch.linalg.lstsq(inputs, wanted).solution
    rows = [[round(value, 5) for value in row] for row in solution.tolist()]
    return {"weights": rows[:-1], "bias": rows[-1]}


def load_pipeline(folder: Path, sampler: str = "ddim", device: str = "cpu") -> StableDiffusionPipeline:
    """The stock pipeline on `folder`, its sampler built from the folder's own scheduler config."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(device)
    pipeline.scheduler = SAMPLERS[sampler].from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, steps: int, guidance: float
) -> list[Image.Image]:
    """One picture a prompt, in batches of 16 to bound memory; picture k starts from `seed` + k."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 16):
        some = prompts[start : start + 16]
        dice = [torch.Generator().manual_seed(seed + start + k) for k in range(len(some))]
        pictures += pipeline(some, num_inference_steps=steps, guidance_scale=guidance, generator=dice).images
    return pictures


def draw_sheet(
    folder: Path, path: Path, seed: int = 3, sampler: str = "ddim", steps: int = SHEET_STEPS
) -> None:
    """One held-out prompt a motif, as one PNG."""
    prompts = [
        f"a {scene.foreground} {scene.motif} on {scene.background}"
        for scene in art.HELD_OUT_SCENES[: len(art.MOTIFS)]
    ]
    pictures = generate(load_pipeline(folder, sampler), prompts, seed, steps, SHEET_GUIDANCE)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(pictures).save(path)


def contact_sheet(pictures: list[Image.Image], columns: int = 9) -> Image.Image:
    """Pictures of one size side by side, row after row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (width * columns, height * rows))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (width * (number % columns), height * (number // columns)))
    return whole
