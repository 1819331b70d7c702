"""The autoencoder: 128 x 128 pixels to 4 x 16 x 16 numbers and back, trained on the drawings."""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from PIL import Image

from . import data
from .training import CHECKPOINT_EVERY_S, Budget, save_checkpoint

WIDTH = 48
PICTURES = 4096
BATCH = 8
CROP_PX = 64  # small crops for the first part: four times the steps
CROP_SHARE = 0.6
CROP_LEARNING_RATE = 2e-3
WHOLE_LEARNING_RATE = 8e-4
LATENT_NOISE = 0.05  # of the latents' own spread: the decoder must bear a denoiser's small errors
FIT_PICTURES = 256


def build() -> AutoencoderTiny:
    """Most work is done at low resolution, where it is cheap; the full resolution gets two convolutions."""
    widths = (WIDTH,) * 4
    return AutoencoderTiny(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(5, 3, 1, 0),
    )


def loss_of(model: AutoencoderTiny, pixels: torch.Tensor) -> torch.Tensor:
    """Colour, edges, and latents that stay centred; `pixels` in -1..1."""
    latents = model.encode(pixels).latents
    spread = latents.detach().float().std()
    again = model.decode(latents + LATENT_NOISE * spread * torch.randn_like(latents)).sample.float()
    error = again - pixels
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    latents = latents.float()
    centre = latents.mean((0, 2, 3)).pow(2).mean()
    return (
        error.abs().mean()
        + 2 * error.pow(2).mean()
        + 0.5 * edges
        + 1e-3 * latents.pow(2).mean()
        + 1e-2 * centre
    )


def _learning_rate(share: float, step: int) -> float:
    if share < CROP_SHARE:
        rate = CROP_LEARNING_RATE * (1 - 0.6 * share / CROP_SHARE)
    else:
        rate = WHOLE_LEARNING_RATE * (1 - 0.98 * (share - CROP_SHARE) / (1 - CROP_SHARE))
    return rate * min(1.0, (step + 1) / 100)


def train(work: Path, minutes: float, device: str, bfloat16: bool) -> None:
    """Train (or go on training) to `minutes`, writing work/autoencoder.pt and sheets."""
    checkpoint = work / "autoencoder.pt"
    torch.manual_seed(1)
    model = build().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CROP_LEARNING_RATE, weight_decay=0.0, fused=True)
    budget = Budget("autoencoder", minutes, device)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        budget = Budget("autoencoder", minutes, device, state["spent_s"], state["step"])
    drawn, _ = data.read_scenes(work / "scenes.jsonl")
    pixels = data.pictures(drawn[:PICTURES])
    saved_at_s = budget.spent_s

    def save() -> None:
        save_checkpoint(
            checkpoint,
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "spent_s": budget.spent_s,
                "step": budget.step,
            },
        )
        sheet(model, pixels[:8], work / "sheets" / f"autoencoder-{budget.step:06}.png")

    for step in budget.steps():
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(budget.share_spent, step)
        whole = budget.share_spent >= CROP_SHARE
        chosen = pixels[torch.randint(len(pixels), (BATCH,))]
        if not whole:
            top, left = (int(n) for n in torch.randint(0, pixels.shape[-1] - CROP_PX + 1, (2,)))
            chosen = chosen[:, :, top : top + CROP_PX, left : left + CROP_PX]
        batch = (
            chosen.to(device, torch.float32).div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        budget.got_loss(loss.item())
        if budget.spent_s - saved_at_s > CHECKPOINT_EVERY_S:
            saved_at_s = budget.spent_s
            save()
    save()


def load(work: Path, device: str) -> AutoencoderTiny:
    state = torch.load(work / "autoencoder.pt", map_location=device, weights_only=True)
    model = build()
    model.load_state_dict(state["model"])
    return model.to(device).eval()


@torch.no_grad()
def reconstruct(model: AutoencoderTiny, pixels: torch.Tensor) -> torch.Tensor:
    """`pixels` (n, 3, h, w) uint8 through the autoencoder and back, rounded as the pipelines do."""
    device = next(model.parameters()).device
    batch = pixels.to(device, torch.float32).div(127.5).sub(1)
    again = model.decode(model.encode(batch).latents).sample
    return again.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def psnr_db(model: AutoencoderTiny, pixels: torch.Tensor) -> float:
    """Peak signal to noise over all of `pixels` (n, 3, h, w) uint8, peak 255."""
    error = reconstruct(model, pixels).float() - pixels.float()
    return 10 * math.log10(255**2 / error.pow(2).mean().item())


def sheet(model: AutoencoderTiny, pixels: torch.Tensor, path: Path) -> None:
    """Originals above, reconstructions below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.cat([torch.cat(list(each), 2) for each in (pixels, reconstruct(model, pixels))], 1)
    Image.fromarray(rows.permute(1, 2, 0).contiguous().numpy()).save(path)
