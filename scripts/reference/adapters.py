"""Two LoRA adapters for the finished model: one that paints everything as stained glass, one that needs few steps."""

import functools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from rich.progress import track
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from . import autoencoder, captions, data, denoiser, latents, tokens
from .latents import Latents, Size
from .scene import ADAPTER_STYLE, random_scene
from .training import Budget, save_checkpoint

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"  # where `load_lora_weights` looks
DESCRIPTION_FILE = "adapter.json"  # which a peer reads beside it
STYLE_FOLDER, FEW_STEP_FOLDER = "stained-glass", "few-step"
STYLE_RANK, FEW_STEP_RANK = 4, 8
EVERYWHERE = (  # attention and convolutions
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "conv", "time_emb_proj"),
)
LEARNING_RATE = 1e-3
AVERAGE_DECAY = 0.995

STYLE_MIX = {Size(256, 256): 0.75, Size(128, 128): 0.25}
STYLE_CHUNKS = 1

TEACHER_STEPS, STUDENT_STEPS, TEACHER_GUIDANCE = 20, 4, 3.0
TRAJECTORIES = {Size(256, 256): 640, Size(128, 128): 1024}  # of the teacher, to learn from
WALK_MIX = {Size(256, 256): 0.7, Size(128, 128): 0.3}
TRAJECTORIES_A_FILE = 64
TEACHER_BATCH = 4
CELLS_A_STEP = 8 * 1024

DESCRIPTIONS = {
    STYLE_FOLDER: {"name": STYLE_FOLDER},
    FEW_STEP_FOLDER: {
        "name": FEW_STEP_FOLDER,
        "few_step": {"steps": STUDENT_STEPS, "guidance": 1, "sampler": "ddim"},
    },
}
"""What a peer is told of each, and tells others."""


class Adapter:
    """Low-rank changes to a frozen UNet, with their optimizer and average, resumed from `checkpoint`."""

    def __init__(self, work: Path, name: str, rank: int, device: str) -> None:
        self.name = name
        self._folder = work / "adapters" / name
        self._checkpoint = self._folder / "checkpoint.pt"
        self.unet, self.text_encoder, self.scaling_factor = denoiser.load_averaged(work)
        self.unet.to(device).requires_grad_(False)
        self.text_encoder.to(device).requires_grad_(False)
        torch.manual_seed(4)
        self._config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(EVERYWHERE))
        self.unet.add_adapter(self._config)
        self.unet.set_attn_processor(AttnProcessor())
        self._parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self._shadow = [p.detach().clone() for p in self._parameters]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self.spent_s, self.step = 0.0, 0
        if self._checkpoint.exists():
            state = torch.load(self._checkpoint, map_location=device, weights_only=True)
            set_peft_model_state_dict(self.unet, state["adapter"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._shadow = state["average"]
            self.spent_s, self.step = state["spent_s"], state["step"]

    def learn(self, loss: torch.Tensor, share_spent: float) -> None:
        """One step; the rate falls to nothing as `share_spent` goes to 1."""
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (self.step + 1) / 50) * max(0.02, 1 - share_spent)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self.step += 1
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self._shadow, [p.detach() for p in self._parameters], 1 - decay)

    def save(self, spent_s: float) -> None:
        """The checkpoint, and the averaged adapter as `load_lora_weights` reads it, in half precision."""
        self._folder.mkdir(parents=True, exist_ok=True)
        state = {
            "adapter": get_peft_model_state_dict(self.unet),
            "optimizer": self._optimizer.state_dict(),
            "average": self._shadow,
            "spent_s": spent_s,
            "step": self.step,
        }
        save_checkpoint(self._checkpoint, state)
        kept = [p.detach().clone() for p in self._parameters]
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._shadow)
            mean = {name: value.half() for name, value in get_peft_model_state_dict(self.unet).items()}
            torch._foreach_copy_(self._parameters, kept)
        StableDiffusionPipeline.save_lora_weights(self._folder, unet_lora_layers=mean)
        (self._folder / WEIGHTS_FILE).chmod(0o644)
        describe(self.name, self._folder)


def describe(name: str, folder: Path) -> None:
    """Write what a peer is told of the adapter `name` to `folder`."""
    (folder / DESCRIPTION_FILE).write_text(json.dumps(DESCRIPTIONS[name], indent=2) + "\n")


def train_style(work: Path, minutes: float, device: str, bfloat16: bool) -> None:
    """Train (or go on) to `minutes`: any caption, painted as ADAPTER_STYLE."""
    for size in STYLE_MIX:
        latents.encode(work, size, STYLE_CHUNKS, device, bfloat16, ADAPTER_STYLE)
    adapter = Adapter(work, STYLE_FOLDER, STYLE_RANK, device)
    sizes, weights = list(STYLE_MIX), list(STYLE_MIX.values())
    drawn = Latents(work, sizes, ADAPTER_STYLE)
    tokenizer = tokens.load(work / "tokenizer")
    scenes = data.read_scenes(work / "scenes.jsonl")
    budget = Budget(STYLE_FOLDER, minutes, device, adapter.spent_s, adapter.step)
    dice = random.Random(f"style/{budget.step}")
    for _ in budget.steps(lambda: adapter.save(budget.spent_s)):
        size = dice.choices(sizes, weights)[0]
        clean, numbers = drawn.draw(size, CELLS_A_STEP * 64 // (size.width * size.height))
        texts = [captions.caption(scenes[n], dice) for n in numbers]
        asked = tokens.encode(
            tokenizer, ["" if dice.random() < denoiser.CAPTION_DROPOUT else each for each in texts]
        )
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            hidden = adapter.text_encoder(asked.to(device)).last_hidden_state
            loss = denoiser.v_loss(adapter.unet, hidden, clean.to(device) * adapter.scaling_factor)
        adapter.learn(loss, budget.share_spent)
        budget.got_loss(loss.item())
    print(f"style adapter: {adapter.step} steps, loss {budget.loss:.4f}")


def train_few_step(work: Path, minutes: float, device: str, bfloat16: bool) -> None:
    """Train (or go on) to `minutes`: one unguided step where the guided teacher takes five (Salimans and Ho, 2022)."""
    files = {
        size: list(trajectories(work, size, count, device, bfloat16)) for size, count in TRAJECTORIES.items()
    }
    adapter = Adapter(work, FEW_STEP_FOLDER, FEW_STEP_RANK, device)
    walks = {size: [torch.load(path, weights_only=True) for path in paths] for size, paths in files.items()}
    starts, _ = _legs()
    budget = Budget(FEW_STEP_FOLDER, minutes, device, adapter.spent_s, adapter.step)
    torch.manual_seed(6 + budget.step)
    dice = random.Random(f"few steps/{budget.step}")
    for _ in budget.steps(lambda: adapter.save(budget.spent_s)):
        size = dice.choices(list(WALK_MIX), list(WALK_MIX.values()))[0]
        count = CELLS_A_STEP * 64 // (size.width * size.height)
        chosen = dice.choice(walks[size])
        rows = torch.randint(len(chosen["tokens"]), (count,))
        leg = torch.randint(STUDENT_STEPS, (count,))
        here = chosen["states"][rows, leg].float()
        there = chosen["states"][rows, leg + 1].float()
        wanted = leg_velocity(here, there, leg)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16), sdpa_kernel(SDPBackend.MATH):
            hidden = adapter.text_encoder(chosen["tokens"][rows].to(device)).last_hidden_state
            guess = adapter.unet(here.to(device), starts[leg].to(device), hidden).sample
        loss = (guess.float() - wanted.to(device)).pow(2).mean()
        adapter.learn(loss, budget.share_spent)
        budget.got_loss(loss.item())
    print(f"few-step adapter: {adapter.step} steps, loss {budget.loss:.4f}")


@functools.cache
def _legs() -> tuple[torch.Tensor, torch.Tensor]:
    """Where the student's steps start: (STUDENT_STEPS,) time steps, and the signal's share there and at the end."""
    schedule = denoiser.scheduler()
    schedule.set_timesteps(STUDENT_STEPS)
    products = torch.cat([schedule.alphas_cumprod[schedule.timesteps], torch.ones(1)])
    return schedule.timesteps, products


def leg_velocity(here: torch.Tensor, there: torch.Tensor, leg: torch.Tensor) -> torch.Tensor:
    """The v (n, 4, h, w) that takes one step of DDIM from the start of `leg` (n,) to the start of the next."""
    _, products = _legs()
    signal, spread = products.sqrt(), (1 - products).sqrt()
    a, b = (signal[leg + k].view(-1, 1, 1, 1) for k in (0, 1))
    c, d = (spread[leg + k].view(-1, 1, 1, 1) for k in (0, 1))
    return (there - (a * b + c * d) * here) / (a * d - b * c)


def trajectories(work: Path, size: Size, count: int, device: str, bfloat16: bool) -> Iterator[Path]:
    """Files of the teacher's guided walks, made where missing.

    `tokens` (n, MAX_TOKENS) and `states` (n, STUDENT_STEPS + 1, 4, h, w) float16: from noise to picture.
    """
    folder = work / "trajectories" / str(size)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.pt" for number in range(-(-count // TRAJECTORIES_A_FILE))]
    missing = [path for path in paths if not path.exists()]
    if missing:
        unet, text_encoder, _ = denoiser.load_averaged(work)
        unet.to(device), text_encoder.to(device)
        tokenizer = tokens.load(work / "tokenizer")
        nothing = tokens.encode(tokenizer, [""])
        for path in track(missing, f"teacher's walks at {size}"):
            dice = random.Random(f"walk/{size}/{path.name}")
            scenes = [random_scene(dice) for _ in range(TRAJECTORIES_A_FILE)]
            asked = tokens.encode(tokenizer, [captions.caption(scene, dice) for scene in scenes])
            noise = torch.Generator().manual_seed(dice.randrange(1 << 32))
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                states = [
                    _walk(unet, text_encoder, asked[k : k + TEACHER_BATCH], nothing, size, noise)
                    for k in range(0, len(asked), TEACHER_BATCH)
                ]
            save_checkpoint(path, {"tokens": asked, "states": torch.cat(states).half()})
    yield from paths


@torch.no_grad()
def _walk(
    unet: torch.nn.Module,
    text_encoder: CLIPTextModel,
    asked: torch.Tensor,
    nothing: torch.Tensor,
    size: Size,
    noise: torch.Generator,
) -> torch.Tensor:
    """The teacher's states where the student will stop: (n, STUDENT_STEPS + 1, 4, h, w)."""
    device = next(unet.parameters()).device
    schedule: DDIMScheduler = denoiser.scheduler()
    schedule.set_timesteps(TEACHER_STEPS)
    shape = len(asked), 4, size.height // autoencoder.CELL_PX, size.width // autoencoder.CELL_PX
    state = torch.randn(shape, generator=noise).to(device)
    both = torch.cat([nothing.expand(len(asked), -1), asked]).to(device)
    with sdpa_kernel(SDPBackend.MATH):
        hidden = text_encoder(both).last_hidden_state
        stops = [state.cpu()]
        for number, timestep in enumerate(schedule.timesteps, 1):
            unguided, guided = unet(torch.cat([state, state]), timestep, hidden).sample.chunk(2)
            v = (unguided + TEACHER_GUIDANCE * (guided - unguided)).float()
            state = schedule.step(v, timestep, state).prev_sample
            if number % (TEACHER_STEPS // STUDENT_STEPS) == 0:
                stops.append(state.cpu())
    return torch.stack(stops, 1)
