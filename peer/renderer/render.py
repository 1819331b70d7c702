"""Draws one statement with a resident pipeline, and measures each part of it."""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy
import torch
from PIL import Image

from protocol.wire.noise import normals, table
from protocol.wire.receipt import pixel_hash
from protocol.wire.statement import Statement

from ..clock import now_us
from . import pace
from .adapters import AdapterFile
from .messages import MAX_FILE_BYTES, MAX_PREVIEW_SIDE_PX, RenderFailed, unsupported
from .pipelines import Model, clean_estimate

PNG_COMPRESS_LEVEL = 1  # of zlib
NO_ADAPTERS: Mapping[bytes, AdapterFile] = {}


@dataclass(frozen=True)
class Picture:
    file: bytes  # PNG
    width: int
    height: int
    pixels: bytes  # pixel_hash
    sigmas: bytes  # SHA-256 of the sampler's sigmas
    steps_done: int


@dataclass(frozen=True)
class Preview:
    width: int
    height: int
    rgb: bytes

    def to_value(self) -> dict[str, int | bytes]:
        return {"width": self.width, "height": self.height, "rgb": self.rgb}


class Cancelled(Exception):
    """The render was cancelled after {steps_done} steps."""

    def __init__(self, steps_done: int) -> None:
        super().__init__()
        self.steps_done = steps_done


@dataclass(frozen=True)
class Watcher:
    """Who is told what while a render runs."""

    on_span: Callable[[str, int, int], None]  # name, start_us, us
    on_step: Callable[
        [int, int, Callable[[], Preview | None]], None
    ]  # step (1..), us, makes a preview when called
    cancelled: Callable[[], bool]
    on_started: Callable[[], None] = lambda: None  # the statement can be drawn: what follows is the work


def prepare() -> None:
    """Does once, while weights are loaded, what the first render would otherwise wait for."""
    table()
    Image.preinit()


def render(
    model: Model,
    statement: Statement,
    watcher: Watcher,
    adapters: Mapping[bytes, AdapterFile] = NO_ADAPTERS,
) -> Picture:
    """The picture; RenderFailed with a sentence, or Cancelled.  Spans follow one another without a gap.

    `adapters`: the files of those that the statement names.
    """
    with torch.inference_mode():
        return _Render(model, statement, watcher, adapters).draw()


class _Render:
    def __init__(
        self, model: Model, statement: Statement, watcher: Watcher, adapters: Mapping[bytes, AdapterFile]
    ) -> None:
        self._adapters = adapters
        self._model = model
        self._pipe = model.pipe
        self._statement = statement
        self._watcher = watcher
        self._lap_us = now_us()
        self._steps_done = 0
        self._sigmas = bytes(32)

    def draw(self) -> Picture:
        statement, pipe = self._statement, self._pipe
        if self._watcher.cancelled():
            raise Cancelled(0)
        if statement.precision != self._model.precision:
            self._model.use_precision(statement.precision)
            pipe = self._pipe = self._model.pipe
            self._lap("load_weights")
        self._model.check(statement)
        if self._model.adapted.use(statement.adapters, self._adapters):
            self._lap("load_adapter")
        self._watcher.on_started()
        pipe.scheduler = self._model.scheduler(statement.sampler)
        guidance = statement.guidance_millionths / 1_000_000
        conditions = self._encode_prompt(guidance)
        self._lap("encode_prompt")
        latents = self._initial_latents()
        self._lap("noise")
        pipe.progress_bar = self._denoising_begins  # called where the loop begins
        latents = pipe(
            **conditions,
            width=statement.width,
            height=statement.height,
            num_inference_steps=statement.steps,
            guidance_scale=guidance,
            latents=latents,
            output_type="latent",
            callback_on_step_end=self._on_step_end,
            return_dict=False,
        )[0]
        rgb = self._decode(latents)
        self._lap("decode")
        return self._encode_image(rgb)

    def _lap(self, name: str, told_us: int | None = None) -> int:
        """Ends the span that began where the last one ended; how long it was, in us."""
        now = now_us()
        start, self._lap_us = self._lap_us, now
        now = now if told_us is None else start + told_us  # pace.py: a peer that lies, in a testnet
        self._watcher.on_span(name, start, now - start)
        return now - start

    def _encode_prompt(self, guidance: float) -> dict[str, Any]:
        pipe, statement = self._pipe, self._statement
        guided = guidance > 1
        negative = statement.negative or None
        prompt, device = statement.prompt, self._model.device
        match self._model.family.name:
            case "sd":
                guided = guided and pipe.unet.config.time_cond_proj_dim is None
                embeds, negative_embeds = pipe.encode_prompt(prompt, device, 1, guided, negative)
                return {"prompt_embeds": embeds, "negative_prompt_embeds": negative_embeds}
            case "sdxl":
                guided = guided and pipe.unet.config.time_cond_proj_dim is None
                parts = pipe.encode_prompt(
                    prompt, device=device, do_classifier_free_guidance=guided, negative_prompt=negative
                )
            case "sd3":
                parts = pipe.encode_prompt(
                    prompt,
                    None,
                    None,
                    device=device,
                    do_classifier_free_guidance=guided,
                    negative_prompt=negative,
                )
            case _:
                embeds, pooled, _ = pipe.encode_prompt(prompt, None, device=device)
                return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        names = (
            "prompt_embeds",
            "negative_prompt_embeds",
            "pooled_prompt_embeds",
            "negative_pooled_prompt_embeds",
        )
        return dict(zip(names, parts, strict=True))

    def _initial_latents(self) -> torch.Tensor:
        """noise/1 in row-major order: (1, C, h, w), for Flux then packed to (1, h/2 * w/2, 4 C)."""
        model, pipe = self._model, self._pipe
        channels = int(pipe.vae.config.latent_channels)
        height, width = self._statement.height // model.cell_px, self._statement.width // model.cell_px
        numbers = bytearray(normals(self._statement.seed, channels * height * width))
        latents = torch.from_numpy(numpy.frombuffer(numbers, dtype="<f4")).reshape(1, channels, height, width)
        if model.family.name == "flux":
            latents = pipe._pack_latents(latents, 1, channels, height, width)
        return latents.to(model.device, pipe.vae.dtype)

    def _denoising_begins(self, *, total: int) -> "_NoBar":
        self._sigmas = self._sigmas_hash()
        if self._statement.sigmas not in (None, self._sigmas):
            raise unsupported("This renderer's sampler does not take the sigmas that the statement names.")
        self._lap("prepare")
        return _NoBar()

    def _sigmas_hash(self) -> bytes:
        """SHA-256 of little-endian fp32: the noise levels from the first step's to that which the last step ends at."""
        scheduler = self._pipe.scheduler
        if self._statement.sampler == "ddim":
            timesteps = scheduler.timesteps.cpu()
            if int(timesteps.max()) >= len(scheduler.alphas_cumprod):
                raise unsupported(f"This model's sampler has no {self._statement.steps} steps.")
            alphas = torch.cat(
                [scheduler.alphas_cumprod[timesteps], scheduler.final_alpha_cumprod.reshape(1)]
            )
            sigmas = ((1 - alphas) / alphas).sqrt()
        else:
            sigmas = scheduler.sigmas.cpu()
        return hashlib.sha256(sigmas.to(torch.float32).numpy().astype("<f4").tobytes()).digest()

    def _on_step_end(self, pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._model.device.type == "cuda":
            # A step is done when it is computed, not when it is queued.
            torch.cuda.synchronize(self._model.device)
        self._steps_done = step + 1
        paced = pace.current()
        us = self._lap("step", None if paced is None else paced.hold(self._lap_us))
        if self._watcher.cancelled():
            raise Cancelled(self._steps_done)
        self._watcher.on_step(self._steps_done, us, self._preview)
        return kwargs

    def _preview(self) -> Preview | None:
        """The clean estimate, one pixel a latent cell, thinned to at most 64x64."""
        projection = self._model.preview
        if projection is None:
            return None
        latents = self._unpack(clean_estimate(self._pipe.scheduler))[0].float()
        thin = -(-max(latents.shape[1:]) // MAX_PREVIEW_SIDE_PX)
        cells = latents[:, ::thin, ::thin].permute(1, 2, 0)
        colours = torch.nan_to_num(cells @ projection.weights + projection.bias).clamp(0, 1) * 255
        rgb = colours.round().to(torch.uint8).cpu().numpy()
        return Preview(rgb.shape[1], rgb.shape[0], rgb.tobytes())

    def _unpack(self, latents: torch.Tensor) -> torch.Tensor:
        if self._model.family.name != "flux":
            return latents
        size = self._statement.height, self._statement.width
        return self._pipe._unpack_latents(latents, *size, self._model.cell_px)  # type: ignore[no-any-return]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) or packed latents to (height, width, 3) RGB8 on the CPU, as the family's pipeline does."""
        pipe, vae = self._pipe, self._pipe.vae
        latents = self._unpack(latents)
        family = self._model.family.name
        upcast = family == "sdxl" and vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:
            pipe.upcast_vae()
            latents = latents.float()
        mean, deviation = vae.config.get("latents_mean"), vae.config.get("latents_std")
        if family == "sdxl" and mean is not None and deviation is not None:
            mean, deviation = (latents.new_tensor(item).view(1, -1, 1, 1) for item in (mean, deviation))
            latents = latents * deviation / vae.config.scaling_factor + mean
        else:
            latents = latents / vae.config.scaling_factor
        if family in ("sd3", "flux"):
            latents = latents + vae.config.shift_factor
        image = vae.decode(latents, return_dict=False)[0]
        if upcast:
            vae.to(dtype=torch.float16)
        if not bool(torch.isfinite(image).all()):
            _black("The autoencoder returned numbers that are no colours.")
        image = (image[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0).float() * 255
        rgb: torch.Tensor = image.round().to(torch.uint8).cpu()
        return rgb

    def _encode_image(self, rgb: torch.Tensor) -> Picture:
        height, width, _ = rgb.shape
        if (width, height) != (self._statement.width, self._statement.height):
            raise unsupported(f"This model draws {width}x{height} px where another size was asked for.")
        pixels = rgb.contiguous().numpy().tobytes()
        if not any(pixels):
            _black("Every pixel is black.")
        file = io.BytesIO()
        Image.frombytes("RGB", (width, height), pixels).save(file, "PNG", compress_level=PNG_COMPRESS_LEVEL)
        if file.tell() > MAX_FILE_BYTES:
            raise unsupported(f"The picture's file is larger than {MAX_FILE_BYTES >> 20} MiB.")
        digest = pixel_hash(pixels, width=width, height=height)
        picture = Picture(file.getvalue(), width, height, digest, self._sigmas, self._steps_done)
        self._lap("encode_image")
        return picture


def _black(why: str) -> NoReturn:
    raise RenderFailed("black_picture", f"The render gave a black picture, which is not passed on. {why}")


class _NoBar:
    """The pipeline's progress bar, without the bar."""

    def __enter__(self) -> "_NoBar":
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None

    def update(self) -> None:
        return None
