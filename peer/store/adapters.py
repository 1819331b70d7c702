"""Adapters (LoRA) on this disk: what a folder holds, the id of its weights, and which models it fits.  No torch."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.wire.advert import FewStep, OfferedAdapter
from protocol.wire.fields import plain
from protocol.wire.manifest import ADAPTER_FAMILY, FileHasher, Manifest, ManifestFile, normalise_config
from protocol.wire.statement import MAX_ADAPTERS, MAX_GUIDANCE_MILLIONTHS, MAX_STEPS, SAMPLERS

from ..renderer.lora import Lora, NotALora, read_untrusted
from .digests import DigestCache
from .models import LocalModel
from .safetensors import NotSafetensors, manifest_file, read_header

DESCRIPTION, WEIGHTS = "adapter.json", "pytorch_lora_weights.safetensors"
MAX_DESCRIPTION_BYTES = 4096
MAX_WEIGHTS_BYTES = 2 << 30  # the largest in use, of rank 256 for SDXL, have 1.4 GB
MOST_OFFERED = 16  # in an advert, of all models: with two models' speeds it still holds them
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Adapters = Mapping[bytes, Mapping[bytes, "LocalAdapter"]]  # of each model id, by adapter id


class AdapterError(Exception):
    """The folder FOLDER is no adapter that can be rendered with: what is wrong, and what would be right."""


@dataclass(frozen=True)
class LocalAdapter:
    """An adapter in a folder of this machine."""

    folder: Path
    weights: Path
    manifest: Manifest
    name: str
    few_step: FewStep | None
    lora: Lora

    @property
    def id(self) -> bytes:
        return self.manifest.id

    @property
    def weights_root(self) -> bytes:
        return next(file.root for file in self.manifest.files if file.path == WEIGHTS)

    def offered(self) -> OfferedAdapter:
        return OfferedAdapter(self.id, self.name, self.few_step)


def reference_adapter_folders() -> tuple[Path, ...]:
    """Those that ship with this package, for the model that does."""
    beside = Path(__file__).resolve().parent.parent / "reference_adapters"
    return tuple(sorted(path.parent for path in beside.glob(f"*/{WEIGHTS}")))


def find_adapters(
    models: Iterable[LocalModel], named: Iterable[Path], cache: DigestCache | None = None
) -> Adapters:
    """Which adapters go with which models: those `named`, and those that ship where a model fits.

    AdapterError where one of those named is none, fits no model, or where they are too many to be told of.
    """
    weights = {model.id: (model, *model.denoiser_weights()) for model in models}
    found: dict[bytes, dict[bytes, LocalAdapter]] = {}
    for folders, must in ((named, True), (reference_adapter_folders(), False)):
        for folder in folders:
            adapter = scan_adapter(folder, cache)
            why_not = []
            for model, part, shapes in weights.values():
                why = adapter.lora.why_not(part, shapes)
                if why is None:
                    found.setdefault(model.id, {})[adapter.id] = adapter
                else:
                    why_not.append(f"{model.name}: {why}")
            if must and len(why_not) == len(weights):
                raise AdapterError(
                    f"The adapter {folder} fits none of this peer's models. {'; '.join(why_not)}."
                )
    for of, adapters in found.items():
        if len(adapters) > MAX_ADAPTERS:
            name = weights[of][0].name
            raise AdapterError(
                f"{len(adapters)} adapters fit the model {name}; at most {MAX_ADAPTERS} can be offered."
            )
    if (count := sum(map(len, found.values()))) > MOST_OFFERED:
        raise AdapterError(
            f"{count} pairs of a model and an adapter that fits it; at most {MOST_OFFERED} can be offered."
        )
    return found


def scan_adapter(folder: Path, cache: DigestCache | None = None) -> LocalAdapter:
    """The adapter in a folder that `save_lora_weights` wrote; AdapterError."""
    try:
        return _scan(folder, cache)
    except OSError as exc:
        raise AdapterError(f"The adapter {folder} cannot be read: {exc.filename}: {exc.strerror}.") from exc
    except (NotSafetensors, NotALora) as exc:
        raise _wrong(folder, f"its file of weights {exc}") from exc
    finally:
        if cache is not None:
            cache.save()


def _scan(folder: Path, cache: DigestCache | None) -> LocalAdapter:
    if not folder.is_dir():
        raise _wrong(folder, "it is not a folder")
    candidates = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    if len(candidates) != 1:
        raise _wrong(folder, f"it must hold one safetensors file, and holds {len(candidates)}")
    (weights,) = candidates
    size = weights.stat().st_size
    if size > MAX_WEIGHTS_BYTES:
        raise _wrong(
            folder, f"{weights.name} is larger than {MAX_WEIGHTS_BYTES >> 20} MiB, as no LoRA should be"
        )
    lora = read_untrusted(read_header(weights))
    files = [manifest_file(weights, WEIGHTS, cache)]
    name, few_step = plain(Path(os.path.abspath(folder)).name), None
    if (folder / DESCRIPTION).is_file():
        normal, name, few_step = _description(folder)
        hasher = FileHasher()
        hasher.update(normal)
        files.insert(0, ManifestFile(DESCRIPTION, len(normal), hasher.root()))
    return LocalAdapter(folder, weights, Manifest(ADAPTER_FAMILY, "", "", tuple(files)), name, few_step, lora)


def _description(folder: Path) -> tuple[bytes, str, FewStep | None]:
    """In normal form, and what it says."""
    with (folder / DESCRIPTION).open("rb") as file:
        data = file.read(MAX_DESCRIPTION_BYTES + 1)
    if len(data) > MAX_DESCRIPTION_BYTES:
        raise _wrong(folder, f"{DESCRIPTION} is larger than {MAX_DESCRIPTION_BYTES} bytes")
    try:
        normal = normalise_config(data)
    except RemoteProtocolError as exc:
        raise _wrong(folder, f"{DESCRIPTION} is {exc}") from exc
    match json.loads(normal, parse_float=Decimal):
        case {"name": str(name), **more} if _NAME.fullmatch(name) and more.keys() <= {"few_step"}:
            return normal, name, _few_step(folder, more["few_step"]) if more else None
    raise _wrong(
        folder,
        f"{DESCRIPTION} must have a name of 1 to 64 letters, digits, dots, dashes and underscores, may have few_step, "
        "and nothing else",
    )


def _few_step(folder: Path, said: Any) -> FewStep:
    match said:
        case {
            "steps": int(steps),
            "guidance": int() | Decimal() as guidance,
            "sampler": str(sampler),
            **more,
        }:
            millionths = Decimal(guidance) * 1_000_000
            numbers = not isinstance(steps, bool) and not isinstance(guidance, bool)
            within = 1 <= steps <= MAX_STEPS and 0 <= millionths <= MAX_GUIDANCE_MILLIONTHS
            if numbers and within and millionths == int(millionths) and sampler in SAMPLERS and not more:
                return FewStep(steps, int(millionths), sampler)
    raise _wrong(
        folder,
        f"few_step in {DESCRIPTION} must be steps (1 to {MAX_STEPS}), guidance (0 to "
        f"{MAX_GUIDANCE_MILLIONTHS // 1_000_000}) and sampler ({', '.join(sorted(SAMPLERS))})",
    )


def _wrong(folder: Path, why: str) -> AdapterError:
    return AdapterError(f"The folder {folder} is no adapter that can be rendered with: {why}.")
