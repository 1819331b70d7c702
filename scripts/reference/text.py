"""The text encoder, taught to read before it is asked to draw: which scene does this caption mean?"""

import random
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import captions, tokens
from .palette import PALETTE
from .scene import COUNTS, MOTIFS, RELATIONS, SIZES, STYLES, Scene, random_scene
from .training import Budget, save_checkpoint

WIDTH, LAYERS, HEADS = 128, 3, 4
BATCH = 96
SHORT_TOKENS = 32  # enough for a caption and some padding: half the work
LEARNING_RATE = 1e-3

COLOUR_CHOICES = (None, *PALETTE)
CHOICES: dict[str, tuple[object, ...]] = {
    "motif": MOTIFS,
    "foreground": COLOUR_CHOICES,
    "background": COLOUR_CHOICES,
    "accent": COLOUR_CHOICES,
    "fade": COLOUR_CHOICES,
    "style": STYLES,
    "size": (None, *SIZES),
    "count": (1, *COUNTS),
    "relation": (None, *RELATIONS),
    "other": (None, *MOTIFS),
}
"""What a scene is made of, and what each of that may be."""


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            max_position_embeddings=tokens.MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Reader(nn.Module):
    """The text encoder with one linear question for each part of a scene, asked of the padding's mean state.

    The padding sees the whole caption and is most of what the denoiser attends to.
    """

    def __init__(self, text_encoder: CLIPTextModel, end: int) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self._end = end
        self.questions = nn.ModuleDict({part: nn.Linear(WIDTH, len(all_)) for part, all_ in CHOICES.items()})

    def forward(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        """Token numbers (n, length) to logits for every part of the scene."""
        hidden = self.text_encoder(numbers).last_hidden_state
        padding = (numbers == self._end).unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * padding).sum(1) / padding.sum(1)
        return {part: question(mean) for part, question in self.questions.items()}


def answers(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    return {
        part: torch.tensor([all_.index(getattr(scene, part)) for scene in scenes])
        for part, all_ in CHOICES.items()
    }


def train(work: Path, minutes: float, device: str, bfloat16: bool) -> None:
    """Train (or go on) to `minutes`, writing work/text.pt; prints how many scenes are wholly understood."""
    checkpoint = work / "text.pt"
    torch.manual_seed(3)
    tokenizer = tokens.load(work / "tokenizer")
    reader = Reader(build(tokenizer), tokenizer.eos_token_id).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=1e-3, fused=True)
    budget = Budget("text", minutes, device)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        reader.load_state_dict(state["reader"])
        optimizer.load_state_dict(state["optimizer"])
        budget = Budget("text", minutes, device, state["spent_s"], state["step"])
    dice = random.Random(f"text/{budget.step}")

    def save() -> None:
        state = {"reader": reader.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent_s": budget.spent_s, "step": budget.step})

    for step in budget.steps(save):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 200) * max(0.02, 1 - budget.share_spent)
        scenes = [random_scene(dice) for _ in range(BATCH)]
        numbers = tokens.encode(
            tokenizer, [captions.caption(scene, dice, whole=True) for scene in scenes], SHORT_TOKENS
        )
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = reader(numbers.to(device))
        wanted = answers(scenes)
        losses = [
            nn.functional.cross_entropy(logits[part].float(), wanted[part].to(device)) for part in CHOICES
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        budget.got_loss(loss.item())
    print(f"text: {understood(reader, tokenizer):.1%} of 1000 held-out captions wholly understood")


@torch.no_grad()
def understood(reader: Reader, tokenizer: CLIPTokenizer, count: int = 1000) -> float:
    """The share of held-out captions of which every part is read right."""
    dice = random.Random("understood")
    scenes = [random_scene(dice, held_out=True) for _ in range(count)]
    numbers = tokens.encode(tokenizer, [captions.phrase(scene, dice) for scene in scenes], SHORT_TOKENS)
    logits = reader(numbers.to(next(reader.parameters()).device))
    right = [logits[part].argmax(1).cpu() == wanted for part, wanted in answers(scenes).items()]
    return float(torch.stack(right).all(0).float().mean())


def load(work: Path) -> CLIPTextModel:
    """The encoder as it was taught to read."""
    tokenizer = tokens.load(work / "tokenizer")
    reader = Reader(build(tokenizer), tokenizer.eos_token_id)
    reader.load_state_dict(torch.load(work / "text.pt", map_location="cpu", weights_only=True)["reader"])
    return reader.text_encoder
