"""The UNet and the text encoder, trained together on cached latents to predict v, down to zero signal."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import Module
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import autoencoder, data, tokens
from .training import CHECKPOINT_EVERY_S, Budget, save_checkpoint

LATENT_SIDE = 16
TEXT_WIDTH = 128
BATCH = 32
LEARNING_RATE = 9e-4
AVERAGE_DECAY = 0.998
CAPTION_DROPOUT = 0.1  # for classifier-free guidance
UNIFORM_SHARE = 0.15  # of the time steps; the others crowd in the middle, where the shapes are decided
PURE_NOISE_SHARE = 0.04  # at the very first time step, where only the caption tells the colours
SHEET_EVERY_S = 420


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
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=3 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokens.MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def cache_latents(work: Path, device: str, bfloat16: bool) -> torch.Tensor:
    """Every scene's latents (n, 4, 16, 16) float16, unscaled, drawn and encoded once into work/latents.pt."""
    path = work / "latents.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    model = autoencoder.load(work, device)
    drawn, _ = data.read_scenes(work / "scenes.jsonl")
    parts = []
    for start in range(0, len(drawn), 64):
        pixels = data.pictures(drawn[start : start + 64]).to(device, torch.float32).div(127.5).sub(1)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            latents = model.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
        parts.append(latents.contiguous().half().cpu())
    save_checkpoint(path, torch.cat(parts))
    return torch.cat(parts)


def scaling_factor(latents: torch.Tensor) -> float:
    """What the pipelines multiply latents by, so that their spread is 1."""
    return round(1 / latents.float().std().item(), 5)


def draw_timesteps(count: int, steps: int) -> torch.Tensor:
    middle = torch.sigmoid(1.2 * torch.randn(count))
    lot = torch.rand(count)
    share = torch.where(lot < UNIFORM_SHARE, torch.rand(count), middle)
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


def _parameters(unet: Module, text_encoder: Module) -> list[torch.nn.Parameter]:
    return [*unet.parameters(), *text_encoder.parameters()]


def load_averaged(work: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The exported networks: the averages of the last checkpoint, or fresh random ones before the first."""
    torch.manual_seed(2)
    unet, text_encoder = build_unet(), build_text_encoder(tokens.load(work / "tokenizer"))
    checkpoint = work / "denoiser.pt"
    if checkpoint.exists():
        average = Average([])
        average.shadow = torch.load(checkpoint, map_location="cpu", weights_only=True)["average"]
        average.copy_to(_parameters(unet, text_encoder))
    return unet.eval(), text_encoder.eval()


def train(
    work: Path, minutes: float, device: str, bfloat16: bool, on_milestone: Callable[[int], None]
) -> None:
    """Train (or go on) to `minutes`, writing work/denoiser.pt; `on_milestone(step)` comes now and then."""
    checkpoint = work / "denoiser.pt"
    latents = cache_latents(work, device, bfloat16)
    latents = latents.float() * scaling_factor(latents)
    tokenizer = tokens.load(work / "tokenizer")
    _, captions = data.read_scenes(work / "scenes.jsonl")
    numbers = tokens.encode(tokenizer, [text for texts in captions for text in texts])
    numbers = numbers.view(len(captions), data.CAPTIONS_PER_SCENE, tokens.MAX_TOKENS)
    nothing = tokens.encode(tokenizer, [""])[0]
    signal = scheduler().alphas_cumprod.sqrt()
    spread = (1 - scheduler().alphas_cumprod).sqrt()

    torch.manual_seed(2)
    unet, text_encoder = build_unet().to(device), build_text_encoder(tokenizer).to(device)
    unet.set_attn_processor(AttnProcessor())  # on so few tokens plain products beat the fused kernel on a CPU
    parameters = _parameters(unet, text_encoder)
    average = Average(parameters)
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    budget = Budget("denoiser", minutes, device)
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        budget = Budget("denoiser", minutes, device, state["spent_s"], state["step"])
    saved_at_s = sheet_at_s = budget.spent_s

    def save() -> None:
        state = {
            "unet": unet.state_dict(),
            "text_encoder": text_encoder.state_dict(),
            "average": average.shadow,
        }
        state |= {"optimizer": optimizer.state_dict(), "spent_s": budget.spent_s, "step": budget.step}
        save_checkpoint(checkpoint, state)

    for step in budget.steps():
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 200) * max(0.02, 1 - budget.share_spent)
        chosen = torch.randint(len(latents), (BATCH,))
        text = numbers[chosen, torch.randint(data.CAPTIONS_PER_SCENE, (BATCH,))].clone()
        text[torch.rand(BATCH) < CAPTION_DROPOUT] = nothing
        timesteps = draw_timesteps(BATCH, len(signal))
        clean = latents[chosen]
        noise = torch.randn_like(clean)
        keep, add = signal[timesteps].view(-1, 1, 1, 1), spread[timesteps].view(-1, 1, 1, 1)
        noisy, wanted = keep * clean + add * noise, keep * noise - add * clean
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16), sdpa_kernel(SDPBackend.MATH):
            hidden = text_encoder(text.to(device)).last_hidden_state
            guess = unet(noisy.to(device), timesteps.to(device), hidden).sample
        loss = (guess.float() - wanted.to(device)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.follow(parameters, step)
        budget.got_loss(loss.item())
        if budget.spent_s - saved_at_s > CHECKPOINT_EVERY_S:
            saved_at_s = budget.spent_s
            save()
        if budget.spent_s - sheet_at_s > SHEET_EVERY_S:
            sheet_at_s = budget.spent_s
            save()
            on_milestone(step)
    save()
    on_milestone(budget.step)
