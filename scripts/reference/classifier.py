"""A small network that names the motif of a picture: the evaluation's eye, trained on drawings kept from the model."""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import nn

from . import art
from .scene import ADAPTER_STYLE, MOTIFS, random_scene
from .training import save_checkpoint

SIDE_PX = 64
PICTURES, CHECKED = 9000, 1000
FIRST_SEED = 30_000_000
STYLED_SHARE = 0.12  # of the drawings in the style adapter's style
PASSES, BATCH, LEARNING_RATE = 10, 50, 3e-3
SHIFT_PX = 3


def build() -> nn.Sequential:
    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    return nn.Sequential(
        *(stage(3, 24, 2), stage(24, 48, 2), stage(48, 96, 2), stage(96, 96, 1), stage(96, 128, 2)),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(128 * (SIDE_PX // 16) ** 2, len(MOTIFS)),
    )


def _pixels(pictures: list[Image.Image]) -> torch.Tensor:
    """(n, 3, SIDE_PX, SIDE_PX) float32 in -1..1."""
    small = [each.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX) for each in pictures]
    return torch.from_numpy(np.stack([np.asarray(each) for each in small])).permute(0, 3, 1, 2) / 127.5 - 1


def _drawings(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out scenes drawn with seeds of their own, every motif as often, and their motifs' numbers."""
    dice = random.Random(first)
    pictures, motifs = [], []
    for k in track(range(count), "drawings for the classifier"):
        motif = k % len(MOTIFS)
        scene = random_scene(dice, held_out=True, motif=MOTIFS[motif])
        if dice.random() < STYLED_SHARE:
            scene = type(scene)(scene.motif, scene.foreground, scene.background, ADAPTER_STYLE)
        pictures.append(art.draw(scene, FIRST_SEED + first + k, SIDE_PX, SIDE_PX))
        motifs.append(motif)
    return _pixels(pictures), torch.tensor(motifs)


def _disturbed(pixels: torch.Tensor) -> torch.Tensor:
    """Shifted, softened, noisy, in other colours: a picture need not be a perfect drawing to show its motif."""
    padded = nn.functional.pad(pixels, (SHIFT_PX,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * SHIFT_PX + 1, (2,)).tolist()
    pixels = padded[:, :, top : top + SIDE_PX, left : left + SIDE_PX][:, torch.randperm(3)]
    if torch.rand(()) < 0.4:
        pixels = nn.functional.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
    return pixels * (0.7 + 0.6 * torch.rand(len(pixels), 1, 1, 1)) + 0.08 * torch.randn_like(pixels)


def train(path: Path) -> nn.Sequential:
    """Minutes on one processor thread; written to `path` with its accuracy on drawings it was not trained on."""
    torch.manual_seed(7)
    pixels, motifs = _drawings(0, PICTURES)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    steps = PASSES * PICTURES // BATCH
    for step in track(range(steps), "training the classifier"):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * (1 - step / steps)
        chosen = torch.randint(PICTURES, (BATCH,))
        logits = model(_disturbed(pixels[chosen]))
        loss = nn.functional.cross_entropy(logits, motifs[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    checked, right = _drawings(PICTURES, CHECKED)
    with torch.no_grad():
        accuracy = (model(checked).argmax(1) == right).float().mean().item()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, {"model": model.state_dict(), "accuracy": accuracy, "motifs": list(MOTIFS)})
    return model


def load(path: Path) -> tuple[nn.Sequential, float]:
    """The classifier of `path`, trained first where there is none, and its accuracy on unseen drawings."""
    if not path.exists() or torch.load(path, weights_only=True)["motifs"] != list(MOTIFS):
        train(path)
    state = torch.load(path, weights_only=True)
    model = build()
    model.load_state_dict(state["model"])
    return model.eval(), state["accuracy"]


@torch.no_grad()
def seen_motifs(model: nn.Sequential, pictures: list[Image.Image]) -> list[str]:
    return [MOTIFS[k] for k in model(_pixels(pictures)).argmax(1).tolist()]
