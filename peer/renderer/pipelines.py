"""Loads a diffusers folder into a whitelisted pipeline: safetensors only, every tensor accounted for, no hub access."""

import json
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import diffusers
import torch
import transformers

from protocol.wire.statement import PRECISIONS, Statement

from .abilities import SAMPLERS_OF, T5_TOKENS, Abilities, Reader
from .adapters import Adapted
from .devices import dtypes
from .messages import unsupported

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
assert DTYPES.keys() == PRECISIONS


MAX_CONFIG_BYTES = 1 << 20

_CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
_T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
_VAES = ("AutoencoderKL", "AutoencoderTiny")


@dataclass(frozen=True)
class Family:
    """One whitelisted pipeline class and the component classes that its folders may name."""

    name: str
    components: dict[str, tuple[str, ...]]
    optional: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()  # plain values of model_index.json that the pipeline is given


FAMILIES = {
    "StableDiffusionPipeline": Family(
        "sd",
        {
            "vae": _VAES,
            "text_encoder": ("CLIPTextModel",),
            "tokenizer": _CLIP_TOKENIZERS,
            "unet": ("UNet2DConditionModel",),
        },
    ),
    "StableDiffusionXLPipeline": Family(
        "sdxl",
        {
            "vae": _VAES,
            "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "tokenizer": _CLIP_TOKENIZERS,
            "tokenizer_2": _CLIP_TOKENIZERS,
            "unet": ("UNet2DConditionModel",),
        },
        options=frozenset({"force_zeros_for_empty_prompt"}),
    ),
    "StableDiffusion3Pipeline": Family(
        "sd3",
        {
            "vae": _VAES,
            "text_encoder": ("CLIPTextModelWithProjection",),
            "text_encoder_2": ("CLIPTextModelWithProjection",),
            "text_encoder_3": ("T5EncoderModel",),
            "tokenizer": _CLIP_TOKENIZERS,
            "tokenizer_2": _CLIP_TOKENIZERS,
            "tokenizer_3": _T5_TOKENIZERS,
            "transformer": ("SD3Transformer2DModel",),
        },
        optional=frozenset({"text_encoder_3", "tokenizer_3"}),  # the pipeline puts zeros in its place
    ),
    "FluxPipeline": Family(
        "flux",
        {
            "vae": _VAES,
            "text_encoder": ("CLIPTextModel",),
            "text_encoder_2": ("T5EncoderModel",),
            "tokenizer": _CLIP_TOKENIZERS,
            "tokenizer_2": _T5_TOKENIZERS,
            "transformer": ("FluxTransformer2DModel",),
        },
    ),
}

# Named by folders of these families, and never loaded: nothing may replace a picture, and no task has an input image.
NOT_LOADED = frozenset({"safety_checker", "feature_extractor", "image_encoder"})

_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "flow_euler": "FlowMatchEulerDiscreteScheduler",
}

# Latent to RGB in 0..1 for the first Stable Diffusion autoencoder, fitted by its users (keturn, Hugging Face forum, 2022).
_SD_PREVIEW = (
    ((0.149, 0.1035, 0.104), (0.0935, 0.143, 0.0865), (-0.079, 0.0945, 0.132), (-0.092, -0.1355, -0.2365)),
    (0.5, 0.5, 0.5),
)


class LoadFailed(Exception):
    """This folder cannot be loaded: {sentence}"""


@dataclass(frozen=True)
class Projection:
    """A clean latent cell of C channels to one RGB pixel in 0..1: `cell @ weights + bias`."""

    weights: torch.Tensor  # (C, 3) fp32
    bias: torch.Tensor  # (3,) fp32


@dataclass
class Model:
    """A resident pipeline.  Its scheduler objects are made once and reused."""

    folder: pathlib.Path
    device: torch.device
    family: Family
    pipe: Any
    precision: str
    variant: str
    preview: Projection | None
    scheduler_config: dict[str, Any]
    schedulers: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def adapted(self) -> Adapted:
        """Its denoiser, to which adapters are applied."""
        part = "unet" if hasattr(self.pipe, "unet") else "transformer"
        return Adapted(getattr(self.pipe, part), part)

    @property
    def weights_mib(self) -> int:
        modules = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        size = sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())
        return -(-int(size) >> 20)

    @property
    def cell_px(self) -> int:
        """Side of the square of pixels that one latent cell stands for."""
        return int(self.pipe.vae_scale_factor)

    def scheduler(self, sampler: str) -> Any:
        """The sampler's scheduler with the folder's noise schedule; the sampler is one of the family's."""
        if sampler not in self.schedulers:
            self.schedulers[sampler] = _scheduler(sampler, self.scheduler_config)
        return self.schedulers[sampler]

    def check(self, statement: Statement) -> None:
        """Raises RenderFailed with a sentence where the statement cannot be drawn exactly as it stands."""
        self.abilities.check(statement)

    @cached_property
    def abilities(self) -> Abilities:
        name, pipe = self.family.name, self.pipe
        readers = []
        for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            if (tokenizer := getattr(pipe, part, None)) is not None:
                limit = int(tokenizer.model_max_length)
                if type(tokenizer).__name__ in _T5_TOKENIZERS:
                    limit = min(limit, T5_TOKENS[name])
                readers.append(Reader(limit, partial(_tokens, tokenizer)))
        return Abilities(
            family=name,
            cell_px=self.cell_px,
            most_steps=int(self.scheduler(SAMPLERS_OF[name][0]).config.num_train_timesteps),
            guided=name != "flux" or bool(pipe.transformer.config.guidance_embeds),
            readers=tuple(readers),
        )

    def use_precision(self, precision: str) -> None:
        """Makes the weights resident in `precision`: read again from the folder where they are in another."""
        if precision != self.precision:
            require_precision(precision, self.device)
            fresh = load(self.folder, str(self.device), precision, variant=self.variant)
            self.pipe, self.precision = fresh.pipe, precision
            self.__dict__.pop("adapted", None)


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, truncation=False).input_ids)


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions this device computes in natively; on a CPU only fp32 is bit-stable and quick enough to offer."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return dtypes(device.type, capability)


def require_precision(precision: str, device: torch.device) -> None:
    offered = precisions(device)
    if precision not in offered:
        raise unsupported(f"This device ({device.type}) renders in {', '.join(offered)}, not in {precision}.")


def load(folder: pathlib.Path, device_name: str, precision: str = "fp32", *, variant: str = "") -> Model:
    """The folder's pipeline on the device; LoadFailed with a sentence where anything is missing, extra or unknown.

    `variant`: the infix of the weight files, of each part that has such files.
    """
    device = torch.device(device_name)
    index = _json(folder / "model_index.json")
    family = FAMILIES.get(str(index.get("_class_name")))
    if family is None:
        raise LoadFailed(f"its pipeline is none of {', '.join(FAMILIES)}.")
    for name, value in index.items():
        known = name in family.components or name in NOT_LOADED or name == "scheduler"
        if isinstance(value, list) and value != [None, None] and not known:
            raise LoadFailed(f"it names a component that its pipeline does not have: {name!r:.64}.")
    parts: dict[str, Any] = {}
    for name, allowed in family.components.items():
        parts[name] = _component(
            folder / name, index.get(name), allowed, name in family.optional, DTYPES[precision], variant
        )
    config = _json(folder / "scheduler" / "scheduler_config.json")
    first = SAMPLERS_OF[family.name][0]
    parts["scheduler"] = _scheduler(first, config)
    schedulers = {first: parts["scheduler"]}
    parts |= {name: index[name] for name in family.options if name in index}
    pipe = _pipeline(family, parts, device)
    latent_channels = pipe.vae.config.latent_channels
    takes = pipe.unet.config.in_channels if hasattr(pipe, "unet") else pipe.transformer.config.in_channels
    if takes != latent_channels * (4 if family.name == "flux" else 1):  # Flux packs 2x2 cells into one
        raise LoadFailed(
            "its denoiser does not take its autoencoder's latents: it is not a text-to-image model."
        )
    pipe.to(device)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    preview = _preview(folder, family, latent_channels, device)
    return Model(folder, device, family, pipe, precision, variant, preview, config, schedulers)


def _pipeline(family: Family, parts: dict[str, Any], device: torch.device) -> Any:
    match family.name:
        case "sd":
            more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
            return _staying(diffusers.StableDiffusionPipeline, device)(**parts, **more)
        case "sdxl":
            return _staying(diffusers.StableDiffusionXLPipeline, device)(**parts, add_watermarker=False)
        case "sd3":
            return _staying(diffusers.StableDiffusion3Pipeline, device)(**parts)
    return _staying(diffusers.FluxPipeline, device)(**parts)


def _staying(cls: Any, device: torch.device) -> Any:
    """The pipeline class, told where it computes: asked, it walks all its modules (3 ms) in each render."""
    return type(cls.__name__, (cls,), {"_execution_device": device})


def _component(
    where: pathlib.Path,
    named: Any,
    allowed: tuple[str, ...],
    optional: bool,
    dtype: torch.dtype,
    variant: str,
) -> Any:
    name = where.name
    match named:
        case None | [None, None] if optional:
            return None
        case [str(library), str(kind)] if kind in allowed and library in ("diffusers", "transformers"):
            pass
        case _:
            raise LoadFailed(f"its {name} is not {' or '.join(allowed)}.")
    if not where.is_dir():
        raise LoadFailed(f"it has no folder {name!r}.")
    cls = getattr(diffusers if library == "diffusers" else transformers, kind)
    with _loading(name):
        if kind in _CLIP_TOKENIZERS + _T5_TOKENIZERS:
            return cls.from_pretrained(where, local_files_only=True)
        module, info = cls.from_pretrained(
            where,
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(where, variant),
            torch_dtype=dtype,
            output_loading_info=True,
        )
    for problem in ("missing", "unexpected", "mismatched"):
        keys = sorted(str(key) for key in info[f"{problem}_keys"])
        if keys:
            raise LoadFailed(f"{name} has {len(keys)} {problem} tensors, the first is {keys[0]!r:.128}.")
    return module


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """What the libraries raise on a broken folder (they declare no family of exceptions) becomes one sentence."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as exc:
        first_line = (str(exc) or type(exc).__name__).strip().splitlines()[0]
        raise LoadFailed(f"{name}: {first_line[:200]}") from exc


def _variant(where: pathlib.Path, variant: str) -> str | None:
    """`variant` where this part has weights of it, as peer.store.models counts them; else its plain ones."""
    names = {path.name for path in where.glob("*.safetensors")}
    if not names:
        raise LoadFailed(f"{where.name} has no safetensors file, and no other format is read.")
    return variant if variant and any(f".{variant}." in found for found in names) else None


def _scheduler(sampler: str, config: dict[str, Any]) -> Any:
    scheduler = getattr(diffusers, _SCHEDULERS[sampler]).from_config(config)
    scheduler.step = _remembering(scheduler, scheduler.step)
    return scheduler


def _remembering(scheduler: Any, step: Any) -> Any:
    """`step`, which also keeps what it was given, so that a preview can be computed where one is wanted."""

    def remembering_step(model_output: Any, timestep: Any, sample: Any, **kwargs: Any) -> Any:
        kwargs.pop("eta", None)
        result = step(model_output, timestep, sample, **kwargs)
        if len(result) > 1:  # DDIM and Euler also return their estimate of the clean latent
            scheduler.clean = result[1]
        else:
            scheduler.clean = None
            scheduler.velocity = model_output, sample, scheduler.step_index - 1
        return result

    return remembering_step


def clean_estimate(scheduler: Any) -> torch.Tensor:
    """The estimate of the clean latent after the scheduler's last step, in the pipeline's own latent layout."""
    if scheduler.clean is not None:
        return scheduler.clean  # type: ignore[no-any-return]
    velocity, sample, index = scheduler.velocity
    return sample - scheduler.sigmas[index] * velocity  # type: ignore[no-any-return]


def _preview(folder: pathlib.Path, family: Family, channels: int, device: torch.device) -> Projection | None:
    path = folder / "preview.json"
    if not path.exists():
        if family.name != "sd" or channels != 4:
            return None
        weights, bias = _SD_PREVIEW
        return Projection(torch.tensor(weights, device=device), torch.tensor(bias, device=device))
    value = _json(path)
    try:
        projection = Projection(
            torch.tensor(value.get("weights"), dtype=torch.float32, device=device),
            torch.tensor(value.get("bias"), dtype=torch.float32, device=device),
        )
    except (TypeError, ValueError, RuntimeError) as exc:
        raise LoadFailed("preview.json does not hold numbers.") from exc
    if projection.weights.shape != (channels, 3) or projection.bias.shape != (3,):
        raise LoadFailed(f"preview.json does not map {channels} channels to 3.")
    return projection


def _json(path: pathlib.Path) -> dict[str, Any]:
    inside = f"{path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise LoadFailed(f"{inside} is larger than {MAX_CONFIG_BYTES} bytes.")
        value = json.loads(path.read_bytes())
    except OSError as exc:
        raise LoadFailed(f"{inside} cannot be read.") from exc
    except (ValueError, RecursionError) as exc:
        raise LoadFailed(f"{inside} is not JSON.") from exc
    if not isinstance(value, dict):
        raise LoadFailed(f"{inside} is not a JSON object.")
    return value
