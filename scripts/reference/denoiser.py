"""The UNet and the text encoder, trained together on cached latents to predict v, down to zero signal."""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from . import captions, data, text, tokens
from .latents import Latents, Size
from .training import Budget, save_checkpoint

WIDTHS = (48, 96, 192, 192)
NATIVE_CELLS = 32
CELLS_A_STEP = 32 * 256  # latents in a batch: 32 pictures of 128 x 128 px, 8 of 256 x 256
LEARNING_RATE, TEXT_LEARNING_RATE, LAST_SHARE = 8e-4, 2e-4, 0.03
WARM_UP_STEPS = 300
AVERAGE_DECAY = 0.999
CAPTION_DROPOUT = 0.1  # for classifier-free guidance
UNIFORM_SHARE = 0.15  # of the time steps; the others crowd in the middle, where the shapes are decided
PURE_NOISE_SHARE = 0.04  # at the very first time step, where only the caption tells the colours
REFRESH_EVERY_S = 120
SHEET_EVERY_S = 1200


@dataclass(frozen=True)
class Course:
    """How long to train on what: sizes with their shares of the steps, and the last minutes of falling rate."""

    minutes: float
    mix: dict[Size, float]
    falling_minutes: float = 0.0


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas, rescaled so that the last step holds no signal."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def build_unet() -> UNet2DConditionModel:
    """Narrow where there are many cells, wide where there are few: most of the work is done at 8 x 8 and 4 x 4."""
    down, up = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    return UNet2DConditionModel(
        sample_size=NATIVE_CELLS,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", down, down, down),
        up_block_types=(up, up, up, "UpBlock2D"),
        cross_attention_dim=text.WIDTH,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
    )


def draw_timesteps(count: int, steps: int, cells: int) -> torch.Tensor:
    """`count` of the time steps 0 to `steps` - 1, for pictures of `cells` latents.

    Later for larger pictures: averaging over as many more cells sees through that much more noise (Esser et al.,
    2024, section 5.3.2).
    """
    middle = torch.sigmoid(1.2 * torch.randn(count))
    lot = torch.rand(count)
    share = torch.where(lot < UNIFORM_SHARE, torch.rand(count), middle)
    shift = max(1.0, cells**0.5 / NATIVE_CELLS)
    share = shift * share / (1 + (shift - 1) * share)
    timesteps = (share * steps).long().clamp(0, steps - 1)
    timesteps[lot > 1 - PURE_NOISE_SHARE] = steps - 1
    return timesteps


class Average:
    """A moving average of parameters: what is exported."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.shadow = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def follow(self, parameters: Sequence[torch.Tensor], step: int) -> None:
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in parameters], 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[torch.Tensor]) -> None:
        for parameter, mean in zip(parameters, self.shadow, strict=True):
            parameter.copy_(mean)


class Denoiser:
    """Both networks with their optimizer and average, as they stand in work/denoiser.pt."""

    def __init__(self, work: Path, device: str) -> None:
        self._checkpoint = work / "denoiser.pt"
        torch.manual_seed(2)
        self.unet = build_unet().to(device)
        self.unet.set_attn_processor(AttnProcessor())  # on so few cells plain products beat the fused kernel
        self.text_encoder = text.load(work).to(device)
        self.average = Average(self.parameters)
        groups = [
            {"params": list(self.unet.parameters()), "rate": LEARNING_RATE},
            {"params": list(self.text_encoder.parameters()), "rate": TEXT_LEARNING_RATE},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
        self.spent_s, self.step, self.scaling_factor = 0.0, 0, 0.0
        if self._checkpoint.exists():
            state = torch.load(self._checkpoint, map_location=device, weights_only=True)
            self.unet.load_state_dict(state["unet"])
            self.text_encoder.load_state_dict(state["text_encoder"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.shadow = state["average"]
            self.spent_s, self.step = state["spent_s"], state["step"]
            self.scaling_factor = state["scaling_factor"]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.unet.parameters(), *self.text_encoder.parameters()]

    def set_rate(self, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * share

    def learn(self, loss: torch.Tensor, step: int) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.average.follow(self.parameters, step)

    def save(self, budget: Budget) -> None:
        state = {
            "unet": self.unet.state_dict(),
            "text_encoder": self.text_encoder.state_dict(),
            "average": self.average.shadow,
            "optimizer": self.optimizer.state_dict(),
            "spent_s": budget.spent_s,
            "step": budget.step,
            "scaling_factor": self.scaling_factor,
        }
        save_checkpoint(self._checkpoint, state)


def load_averaged(work: Path) -> tuple[UNet2DConditionModel, CLIPTextModel, float]:
    """The averaged networks of the last checkpoint and the latents' scaling factor."""
    denoiser = Denoiser(work, "cpu")
    denoiser.average.copy_to(denoiser.parameters)
    return denoiser.unet.eval(), denoiser.text_encoder.eval(), denoiser.scaling_factor


@functools.cache
def _signal_shares() -> torch.Tensor:
    return scheduler().alphas_cumprod


def v_loss(unet: Module, hidden: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean square error of the velocity at random time steps; `clean` (n, 4, h, w) has unit spread."""
    products = _signal_shares()
    timesteps = draw_timesteps(len(clean), len(products), clean[0, 0].numel())
    keep = products.sqrt()[timesteps].view(-1, 1, 1, 1).to(clean)
    add = (1 - products).sqrt()[timesteps].view(-1, 1, 1, 1).to(clean)
    noise = torch.randn_like(clean)
    with sdpa_kernel(SDPBackend.MATH):
        guess = unet(keep * clean + add * noise, timesteps.to(clean.device), hidden).sample
    return (guess.float() - (keep * noise - add * clean)).pow(2).mean()


def train(
    work: Path, course: Course, device: str, bfloat16: bool, on_milestone: Callable[[int], None]
) -> None:
    """Train (or go on) as `course` says, writing work/denoiser.pt; `on_milestone(step)` comes now and then."""
    denoiser = Denoiser(work, device)
    sizes, weights = list(course.mix), list(course.mix.values())
    latents = Latents(work, sizes)
    if not denoiser.scaling_factor:
        denoiser.scaling_factor = round(1 / latents.spread(sizes[0]), 5)
    tokenizer = tokens.load(work / "tokenizer")
    scenes = data.read_scenes(work / "scenes.jsonl")
    budget = Budget("denoiser", course.minutes, device, denoiser.spent_s, denoiser.step)
    torch.manual_seed(2 + budget.step)
    dice = random.Random(f"denoiser/{budget.step}")
    falling_s = 60 * course.falling_minutes
    sheet_at_s = refreshed_at_s = budget.spent_s

    for step in budget.steps(lambda: denoiser.save(budget)):
        left_s = budget.limit_s - budget.spent_s
        fallen = max(LAST_SHARE, left_s / falling_s) if left_s < falling_s else 1.0
        denoiser.set_rate(min(1.0, (step + 1) / WARM_UP_STEPS) * fallen)
        size = dice.choices(sizes, weights)[0]
        count = max(4, CELLS_A_STEP * 64 // (size.width * size.height))
        clean, numbers = latents.draw(size, count)
        texts = [captions.caption(scenes[n], dice) for n in numbers]
        asked = tokens.encode(tokenizer, ["" if dice.random() < CAPTION_DROPOUT else t for t in texts])
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            hidden = denoiser.text_encoder(asked.to(device)).last_hidden_state
            loss = v_loss(denoiser.unet, hidden, clean.to(device) * denoiser.scaling_factor)
        denoiser.learn(loss, step)
        budget.got_loss(loss.item())
        if budget.spent_s - refreshed_at_s > REFRESH_EVERY_S:
            refreshed_at_s = budget.spent_s
            latents.refresh()
        if budget.spent_s - sheet_at_s > SHEET_EVERY_S:
            sheet_at_s = budget.spent_s
            denoiser.save(budget)
            on_milestone(step)
    on_milestone(budget.step)
