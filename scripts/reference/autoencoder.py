"""The autoencoder: pixels to 4 numbers for every 8 x 8 of them and back, trained on the drawings."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from . import data
from .scene import ADAPTER_STYLE
from .training import Budget, save_checkpoint

WIDTH = 48
CELL_PX = 8  # what one latent covers
LARGE_PX, LARGE_PICTURES = 256, 4096
SMALL_PX, SMALL_PICTURES = 128, 6144
FIRST_SEED = 1_000_000
ADAPTER_STYLE_EVERY = 10  # drawings, so that the style adapter's pictures are decoded as well
BATCH = 8
CROP_SHARE = 0.7  # of the time on small crops, which are quick; then whole small drawings and large crops
LEARNING_RATE, LAST_LEARNING_RATE = 1.2e-3, 1e-5
SQUARED_WEIGHT, LAST_SQUARED_WEIGHT = 2.0, 8.0  # of squared over plain error; the last, of a decoder alone
LATENT_NOISE = 0.05  # of the latents' own spread: the decoder must bear a denoiser's small errors
HALVED_WEIGHT = 0.1
APART_WEIGHT = 0.5
FIT_PICTURES = 192
SHEET_PICTURES = 12


OPPONENT = torch.tensor(
    [[0.55, 0.55, 0.55], [0.9, 0.0, -0.9], [-0.6, 1.2, -0.6]]
)  # light, red or blue, green
LED_SHARE = 0.2  # of the time


def build() -> AutoencoderTiny:
    """Most work is done at low resolution, where it is cheap; the full resolution gets two convolutions."""
    widths = (WIDTH,) * 4
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(5, 3, 1, 0),
    )


def levels(pictures: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float32 in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _difference(again: torch.Tensor, pixels: torch.Tensor, squared_weight: float) -> torch.Tensor:
    error = again.float() - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + squared_weight * error.pow(2).mean() + 0.5 * edges


def loss_of(model: AutoencoderTiny, pixels: torch.Tensor, led: float, squared_weight: float) -> torch.Tensor:
    """Colour and edges, of the picture and of its halved copy; `pixels` in -1..1.

    While `led` is above 0, three latents are pulled towards the cell's mean colour: left alone, colour is found late.

    Halved latents must decode to the halved picture (as in EQ-VAE), and latents keep unit spread without
    correlation: both make them easier to denoise.
    """
    latents = model.encode(pixels).latents
    noisy = latents + LATENT_NOISE * torch.randn_like(latents)
    loss = _difference(model.decode(noisy).sample, pixels, squared_weight)
    halve = torch.nn.functional.avg_pool2d
    halved = model.decode(halve(noisy, 2)).sample
    loss = loss + HALVED_WEIGHT * _difference(halved, halve(pixels, 2), squared_weight)
    if led > 0:
        colour = torch.einsum(
            "nchw,dc->ndhw", torch.nn.functional.avg_pool2d(pixels, CELL_PX), OPPONENT.to(pixels)
        )
        loss = loss + led * (latents[:, :3] - colour).pow(2).mean()
    flat = latents.float().transpose(0, 1).flatten(1)
    mean = flat.mean(1, keepdim=True)
    spread = (flat - mean) @ (flat - mean).T / flat.shape[1]
    apart = (spread - torch.eye(len(spread), device=spread.device)).pow(2).mean()
    return loss + APART_WEIGHT * (apart + mean.pow(2).mean())


def _batch(large: np.ndarray, small: np.ndarray, step: int, crop: bool) -> np.ndarray:
    """Crops of large and of small drawings in turn; at the end whole small ones."""
    source = large if step % 2 else small
    side_px = (80 if crop else 160) if step % 2 else (64 if crop else SMALL_PX)
    chosen = torch.randint(len(source), (BATCH,)).numpy()
    top, left = (int(n) for n in torch.randint(0, source.shape[1] - side_px + 1, (2,)))
    return np.stack([source[k, top : top + side_px, left : left + side_px] for k in chosen])


def train(work: Path, minutes: float, device: str, bfloat16: bool, decoder_only: bool = False) -> None:
    """Train (or go on training) to `minutes`, writing work/autoencoder.pt and sheets.

    With `decoder_only` the latents stay what they are: cached ones and a trained denoiser remain valid.
    """
    checkpoint = work / "autoencoder.pt"
    torch.manual_seed(1)
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    budget = Budget("autoencoder", minutes, device)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        budget = Budget("autoencoder", minutes, device, state["spent_s"], state["step"])
        torch.manual_seed(1 + budget.step)
    model.encoder.requires_grad_(not decoder_only)
    scenes = [
        replace(scene, style=ADAPTER_STYLE) if k % ADAPTER_STYLE_EVERY == 0 else scene
        for k, scene in enumerate(data.read_scenes(work / "scenes.jsonl"))
    ]
    large = data.drawn_pictures(work / "large.npy", scenes[-LARGE_PICTURES:], FIRST_SEED, LARGE_PX)
    small = data.drawn_pictures(work / "small.npy", scenes[:SMALL_PICTURES], FIRST_SEED, SMALL_PX)
    first_s = budget.spent_s

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent_s": budget.spent_s, "step": budget.step})

    for step in budget.steps(save):
        share = (
            (budget.spent_s - first_s) / max(1.0, budget.limit_s - first_s)
            if decoder_only
            else budget.share_spent
        )
        falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, share))
        rate = (
            LAST_LEARNING_RATE
            + ((0.3 if decoder_only else 1.0) * LEARNING_RATE - LAST_LEARNING_RATE) * falling
        )
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100)
        pixels = levels(_batch(large, small, step, not decoder_only and share < CROP_SHARE))
        pixels = pixels.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = (
                loss_of(model, pixels, 0.0, LAST_SQUARED_WEIGHT)
                if decoder_only
                else loss_of(model, pixels, 1 - share / LED_SHARE, SQUARED_WEIGHT)
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        budget.got_loss(loss.item())
    judge(model, work / "sheets" / "autoencoder.png")


def judge(model: AutoencoderTiny, sheet_path: Path) -> None:
    """Print the fidelity on unseen drawings of both sizes and write a sheet: originals above, copies below."""
    for side_px in (SMALL_PX, LARGE_PX):
        unseen = data.unseen_pictures(FIT_PICTURES, side_px)
        print(
            f"autoencoder: {psnr_db(model, unseen):.2f} dB at {side_px} px on {len(unseen)} unseen drawings"
        )
    rows = [
        np.concatenate(list(each), 1)
        for each in (unseen[:SHEET_PICTURES], reconstruct(model, unseen[:SHEET_PICTURES]))
    ]
    sheet_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(sheet_path)


def load(work: Path, device: str) -> AutoencoderTiny:
    state = torch.load(work / "autoencoder.pt", map_location=device, weights_only=True)
    model = build()
    model.load_state_dict(state["model"])
    return model.to(device).eval()


@torch.no_grad()
def reconstruct(model: AutoencoderTiny, pictures: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) uint8 through the autoencoder and back, rounded as the pipelines do."""
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(pictures), 16):
        batch = levels(pictures[start : start + 16]).to(device)
        again = model.decode(model.encode(batch).latents).sample
        parts.append(again.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts).permute(0, 2, 3, 1).numpy()


def psnr_db(model: AutoencoderTiny, pictures: np.ndarray) -> float:
    """Peak signal to noise over all of `pictures` (n, h, w, 3) uint8, peak 255."""
    error = reconstruct(model, pictures).astype(np.float32) - pictures
    return float(10 * np.log10(255**2 / np.square(error).mean()))
