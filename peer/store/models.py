"""Models on this disk: what a folder in the format of diffusers holds, and the id of its weights.  No torch.

A folder is read the way the renderer will load it: exactly the files that decide a picture make the manifest, and what
cannot be loaded safely is refused here.  (protocol/README.md, section on manifests.)
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.wire.fields import plain
from protocol.wire.manifest import FileHasher, Manifest, ManifestFile, normalise_config
from protocol.wire.statement import MAX_SIDE_PX, SIDE_MULTIPLE_PX, Statement

from ..renderer.abilities import T5_TOKENS, Abilities, Reader
from ..renderer.messages import RenderFailed
from .digests import DigestCache
from .prompts import TokenCounter, can_count
from .safetensors import NotSafetensors, manifest_file, read_header

MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 16 << 20  # names every tensor of a sharded model
MAX_TOKENIZER_BYTES = 64 << 20
MAX_SHARDS = 256

ModelId = bytes  # 32: the digest of the manifest


class ModelError(Exception):
    """The folder FOLDER is no model that can be rendered with: what is wrong, and what would be right."""


@dataclass(frozen=True)
class Pipeline:
    """A pipeline class that may be loaded, and what it consists of."""

    family: str
    denoiser: str
    encoders: tuple[str, ...]  # text encoders; each has its tokenizer
    optional: tuple[str, ...] = ()
    sample_side: int | None = None  # latent side where the denoiser's config has none


PIPELINES = {
    "StableDiffusionPipeline": Pipeline("sd", "unet", ("text_encoder",)),
    "StableDiffusionXLPipeline": Pipeline("sdxl", "unet", ("text_encoder", "text_encoder_2")),
    "StableDiffusion3Pipeline": Pipeline(
        "sd3", "transformer", ("text_encoder", "text_encoder_2"), ("text_encoder_3",)
    ),
    # default_sample_size of diffusers' pipeline_flux.py
    "FluxPipeline": Pipeline("flux", "transformer", ("text_encoder", "text_encoder_2"), sample_side=128),
}
_NOT_LOADED = frozenset({"safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"})
_LIBRARIES = frozenset({"diffusers", "transformers"})
_CLASS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors")
_VARIANT = "fp16"
_T5_TOKENIZERS = frozenset({"T5Tokenizer", "T5TokenizerFast"})
TRAIN_STEPS = 1000  # num_train_timesteps of diffusers' schedulers where the config has none
# What a tokenizer's config says of the program that wrote it.
_TOKENIZER_NOISE = frozenset(
    {"backend", "is_local", "local_files_only", "name_or_path", "special_tokens_map_file", "tokenizer_file"}
)
_TOKENIZER_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TOKENIZER_TABLES = ("vocab.json", "merges.txt", "spiece.model")


@dataclass(frozen=True)
class LocalModel:
    """A model in a folder of this machine.  `variant` is "" or the infix of its weight files ("fp16")."""

    folder: Path
    manifest: Manifest
    name: str
    family: str  # sd, sdxl, sd3, flux
    pipeline: str  # class name
    variant: str
    native: tuple[int, int]  # width, height in px
    abilities: Abilities
    bytes: int  # of all files of the manifest

    @property
    def id(self) -> ModelId:
        return self.manifest.id

    @property
    def files(self) -> tuple[ManifestFile, ...]:
        return tuple(self.manifest.files)

    def why_not(self, statement: Statement) -> RenderFailed | None:
        """Why this model cannot draw the statement exactly; the length of the prompts is not looked at."""
        return _why_not(self.abilities.check_shape, statement)

    def surely_reads(self, statement: Statement) -> bool:
        """The prompts are so short that they need not be counted."""
        return self.abilities.surely_reads(statement)

    def denoiser_weights(self) -> tuple[str, dict[str, tuple[int, ...]]]:
        """The part that denoises, and the shapes of its weights by name; reads their headers.  ModelError."""
        part = PIPELINES[self.pipeline].denoiser
        shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            if file.path.startswith(f"{part}/") and file.path.endswith(".safetensors"):
                try:
                    found = read_header(self.folder / file.path)
                    shapes |= {
                        name: tuple(tensor["shape"])
                        for name, tensor in found.items()
                        if name != "__metadata__"
                    }
                except (OSError, NotSafetensors, TypeError, LookupError) as exc:
                    raise ModelError(f"The model {self.folder} cannot be read: {file.path}: {exc}.") from exc
        return part, shapes

    def why_not_read(self, statement: Statement) -> RenderFailed | None:
        """Why its prompts do not reach the picture whole.  Reads the tokenizers when first called: in a thread."""
        return _why_not(self.abilities.check_prompts, statement)


def reference_model_folder() -> Path:
    """Where the model that ships with this package is."""
    return Path(__file__).resolve().parent.parent / "reference_model"


def scan_folder(path: Path, cache: DigestCache | None = None) -> LocalModel:
    """The model in a `save_pretrained` folder, a hub snapshot or a hub cache's `models--OWNER--NAME`; ModelError.

    Reads every byte of the weights that `cache` does not know: seconds per gigabyte.
    """
    try:
        model = _Scan(_snapshot(path), cache).model()
    except OSError as exc:
        raise ModelError(f"The model {path} cannot be read: {exc.filename}: {exc.strerror}.") from exc
    if cache is not None:
        cache.save()
    return model


def _why_not(check: Callable[[Statement], None], statement: Statement) -> RenderFailed | None:
    try:
        check(statement)
    except RenderFailed as failed:
        return failed
    return None


def _snapshot(path: Path) -> Path:
    """`path`, or, for a repository in a hub cache, the snapshot that its main branch names or its only one."""
    if (path / "model_index.json").exists() or not (path / "snapshots").is_dir():
        return path
    main = path / "refs" / "main"
    if main.is_file() and re.fullmatch(b"[0-9a-f]{40}", commit := main.read_bytes().strip()):
        return path / "snapshots" / commit.decode()
    snapshots = sorted((path / "snapshots").iterdir())
    if len(snapshots) != 1:
        raise ModelError(
            f"The hub cache {path} has {len(snapshots)} snapshots: name the folder of one of them."
        )
    return snapshots[0]


def _name_of(folder: Path) -> str:
    folder = Path(os.path.abspath(folder))
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return plain(repository.removeprefix("models--").replace("--", "/"))
    return plain(folder.name)


class _Scan:
    """One reading of one folder."""

    def __init__(self, folder: Path, cache: DigestCache | None) -> None:
        self._folder = folder
        self._cache = cache
        self._files: list[ManifestFile] = []
        self._variant = ""

    def model(self) -> LocalModel:
        index = self._index()
        name = str(index["_class_name"])
        pipeline = PIPELINES[name]
        used = [*pipeline.encoders, *(part for part in pipeline.optional if part in index)]
        tokenizers = [part.replace("text_encoder", "tokenizer") for part in used]
        for part in ("scheduler", pipeline.denoiser, "vae", *used, *tokenizers):
            self._check_component(index, part)
        self._add_bytes("model_index.json", self._normalised("model_index.json", index))
        scheduler = self._config("scheduler", "scheduler_config.json")
        self._variant = self._find_variant((pipeline.denoiser, "vae", *used))
        denoiser = self._weighted(pipeline.denoiser)
        vae = self._weighted("vae")
        for part in used:
            self._weighted(part)
        readers = [
            self._tokenizer(part, T5_TOKENS[pipeline.family] if index[part][1] in _T5_TOKENIZERS else None)
            for part in tokenizers
        ]
        try:
            manifest = Manifest(
                family=pipeline.family,
                pipeline=name,
                variant=self._variant,
                files=tuple(sorted(self._files, key=lambda file: file.path)),
            )
        except ValueError as exc:
            raise self._wrong(f"its files make no manifest: {exc}") from exc
        return LocalModel(
            folder=self._folder,
            manifest=manifest,
            name=_name_of(self._folder),
            family=pipeline.family,
            pipeline=name,
            variant=self._variant,
            native=self._native(pipeline, denoiser, vae),
            abilities=Abilities(
                family=pipeline.family,
                cell_px=self._cell_px(vae),
                most_steps=_positive(scheduler.get("num_train_timesteps")) or TRAIN_STEPS,
                guided=pipeline.family != "flux" or denoiser.get("guidance_embeds") is True,
                readers=tuple(reader for reader in readers if reader is not None),
            ),
            bytes=sum(file.bytes for file in self._files),
        )

    # what is there

    def _wrong(self, sentence: str) -> ModelError:
        return ModelError(f"The folder {self._folder} is no model that can be rendered with: {sentence}.")

    def _index(self) -> dict[str, Any]:
        if not (self._folder / "model_index.json").is_file():
            raise self._wrong("it has no model_index.json, so it is not in the format of diffusers")
        index = self._json("model_index.json")
        if index.get("_class_name") not in list(PIPELINES):  # it may be unhashable
            known = ", ".join(PIPELINES)
            raise self._wrong(
                f"its pipeline is {index.get('_class_name')!r:.80}, and only these are known: {known}"
            )
        return {
            key: value for key, value in index.items() if key not in _NOT_LOADED and value != [None, None]
        }

    def _check_component(self, index: dict[str, Any], part: str) -> None:
        match index.get(part):
            case [str(library), str(name)] if library in _LIBRARIES and _CLASS_NAME.fullmatch(name):
                if not (self._folder / part).is_dir():
                    raise self._wrong(f"its folder {part} is missing")
            case None:
                raise self._wrong(f"its model_index.json names no {part}")
            case other:
                raise self._wrong(
                    f"its {part} is {other!r:.80}, which is not a class of diffusers or transformers"
                )

    def _find_variant(self, parts: tuple[str, ...]) -> str:
        """The variant whose weights every part has: "" where there is one, else fp16."""
        missing = [part for part in parts if self._weight_file(part, "") is None]
        if not missing:
            return ""
        for part in missing:
            if self._weight_file(part, _VARIANT) is None:
                pickles = sorted(path.name for path in (self._folder / part).glob("*.bin"))
                if pickles:
                    raise self._wrong(
                        f"the weights of its {part} are pickled ({part}/{pickles[0]}), and a pickle can run any program "
                        "when it is loaded; save them as safetensors"
                    )
                raise self._wrong(f"{part}/{_weight_stem(part)}.safetensors is missing")
        return _VARIANT

    def _weight_file(self, part: str, variant: str) -> str | None:
        """The file that names or holds the weights of `part`, as its library would choose it."""
        stem, infix = _weight_stem(part), f".{variant}" if variant else ""
        whole, index = f"{stem}{infix}.safetensors", f"{stem}.safetensors.index{infix}.json"
        # diffusers looks for shards first, transformers for the whole.
        for name in (whole, index) if part.startswith("text_encoder") else (index, whole):
            if (self._folder / part / name).is_file():
                return name
        return None

    def _native(self, pipeline: Pipeline, denoiser: dict[str, Any], vae: dict[str, Any]) -> tuple[int, int]:
        sample = pipeline.sample_side or denoiser.get("sample_size")
        match sample:
            case int(side):
                height, width = side, side
            case [int(height), int(width)]:
                pass
            case _:
                raise self._wrong(f"the config of its {pipeline.denoiser} states no sample_size")
        scale = self._cell_px(vae)
        for side in (height, width):
            if not 0 < side * scale <= MAX_SIDE_PX or side * scale % SIDE_MULTIPLE_PX:
                raise self._wrong(f"its native size would be {width * scale}x{height * scale}")
        return width * scale, height * scale

    def _cell_px(self, vae: dict[str, Any]) -> int:
        channels = vae.get("block_out_channels", vae.get("decoder_block_out_channels"))
        if not isinstance(channels, list) or not 1 <= len(channels) <= 8:
            raise self._wrong("the config of its vae states no block_out_channels")
        return 1 << (len(channels) - 1)  # each block but the last halves the sides

    # what it holds

    def _weighted(self, part: str) -> dict[str, Any]:
        """Adds the config and the weights of `part`; its config."""
        config = self._config(part, "config.json")
        name = self._weight_file(part, self._variant) or self._weight_file(part, "")
        if name is None:
            raise self._wrong(f"{part}/{_weight_stem(part)}.safetensors is missing")
        if name.endswith(".safetensors"):
            self._add_weights(f"{part}/{name}")
        else:
            index = self._json(f"{part}/{name}", MAX_INDEX_BYTES)
            shards = self._shards(f"{part}/{name}", index)
            body = json.dumps(
                {"weight_map": index["weight_map"]}, sort_keys=True, separators=(",", ":")
            ).encode()
            self._add_bytes(f"{part}/{name}", body)
            for shard in shards:
                self._add_weights(f"{part}/{shard}")
        return config

    def _shards(self, path: str, index: dict[str, Any]) -> list[str]:
        names = index.get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise self._wrong(f"{path} has no weight_map")
        shards = sorted(set(names.values()))
        if not 1 <= len(shards) <= MAX_SHARDS or not all(_SHARD_NAME.fullmatch(name) for name in shards):
            raise self._wrong(f"{path} does not name 1 to {MAX_SHARDS} safetensors files beside it")
        return shards

    def _tokenizer(self, part: str, at_most: int | None) -> Reader | None:
        """Adds the files of a tokenizer; how much is read of what it gives, `at_most` being the pipeline's limit.

        None where that is not known before it is loaded.
        """
        # Where there is a tokenizer.json it holds all that the tables beside it do.
        whole = self._folder / part / "tokenizer.json"
        tables = ["tokenizer.json"] if whole.is_file() else list(_TOKENIZER_TABLES)
        found = [name for name in tables if (self._folder / part / name).is_file()]
        if not found or found == ["merges.txt"]:
            raise self._wrong(f"{part} has neither a tokenizer.json nor a vocab.json or spiece.model")
        for name in found:
            self._add_bytes(f"{part}/{name}", self._read(f"{part}/{name}", MAX_TOKENIZER_BYTES))
        tokens = None
        for name in _TOKENIZER_CONFIGS if found != ["tokenizer.json"] else _TOKENIZER_CONFIGS[:1]:
            if (self._folder / part / name).is_file():
                config = self._json(f"{part}/{name}")
                tokens = config.get("model_max_length", tokens)
                config = {key: value for key, value in config.items() if key not in _TOKENIZER_NOISE}
                self._add_bytes(f"{part}/{name}", self._normalised(f"{part}/{name}", config))
        limits = [limit for limit in (_positive(tokens), at_most) if limit is not None]
        folder = self._folder / part
        return Reader(min(limits), TokenCounter(folder)) if limits and can_count(folder) else None

    def _config(self, part: str, name: str) -> dict[str, Any]:
        path = f"{part}/{name}"
        if not (self._folder / path).is_file():
            raise self._wrong(f"{path} is missing")
        config = self._json(path)
        if config.get("block_out_channels") == config.get("decoder_block_out_channels"):
            # diffusers' AutoencoderTiny derives the one from the other when it is loaded, and then saves both.
            config.pop("block_out_channels", None)
        self._add_bytes(path, self._normalised(path, config))
        return config

    def _json(self, path: str, at_most_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
        try:
            value = json.loads(self._read(path, at_most_bytes))
        except (ValueError, RecursionError) as exc:
            raise self._wrong(f"{path} is not JSON") from exc
        if not isinstance(value, dict):
            raise self._wrong(f"{path} is not a JSON object")
        return value

    def _normalised(self, path: str, config: dict[str, Any]) -> bytes:
        try:
            return normalise_config(json.dumps(config).encode())
        except RemoteProtocolError as exc:
            raise self._wrong(f"{path} cannot be normalised: {exc}") from exc

    def _read(self, path: str, at_most_bytes: int) -> bytes:
        with (self._folder / path).open("rb") as file:
            data = file.read(at_most_bytes + 1)
        if len(data) > at_most_bytes:
            raise self._wrong(f"{path} is larger than {at_most_bytes} bytes")
        return data

    # digests

    def _add_bytes(self, path: str, data: bytes) -> None:
        hasher = FileHasher()
        hasher.update(data)
        self._files.append(ManifestFile(path, len(data), hasher.root()))

    def _add_weights(self, path: str) -> None:
        if not (self._folder / path).is_file():
            raise self._wrong(f"{path} is missing")
        try:
            self._files.append(manifest_file(self._folder / path, path, self._cache))
        except NotSafetensors as exc:
            raise self._wrong(f"{path} {exc}") from exc


def _weight_stem(part: str) -> str:
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def _positive(value: Any) -> int | None:
    """The number, where a config has one that can be meant: transformers writes 10^30 for "no limit"."""
    return value if isinstance(value, int) and 0 < value <= 1 << 20 else None
