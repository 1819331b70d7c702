"""What a LoRA file changes, read from its header: names and shapes, and whether they fit a model.  No torch.

The file is as diffusers' `save_lora_weights` writes it.  (protocol/README.md, section 14.)
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARTS = ("unet", "transformer")  # the denoiser, by family
DTYPES = frozenset({"F32", "F16", "BF16"})
MAX_LAYERS = 4096
MAX_NAME_CHARS = 256
MAX_ALPHA = 65_536
_A, _B = ".lora_A.weight", ".lora_B.weight"
_METADATA = "lora_adapter_metadata"
_NOT_APPLIED = ("use_dora", "use_rslora", "alpha_pattern", "layer_replication", "lora_bias")

Shape = tuple[int, ...]


class NotALora(Exception):
    """What is wrong with it: the rest of a sentence that begins with the file."""


@dataclass(frozen=True)
class Layer:
    """One weight that is changed."""

    weight: Shape
    rank: int


@dataclass(frozen=True)
class Lora:
    part: str  # one of PARTS
    layers: dict[str, Layer]  # by the path of the layer in the part
    alpha: float | None  # the scale is alpha / rank; None: 1

    def scale(self, layer: str) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.layers[layer].rank

    def why_not(self, part: str, weights: Mapping[str, Shape]) -> str | None:
        """Why it does not fit a model whose denoiser `part` has `weights`, by name; None: it does."""
        if part != self.part:
            return f"it changes a {self.part}, and that model has a {part}"
        for name, layer in self.layers.items():
            shape = weights.get(f"{name}.weight")
            if shape is None:
                return f"that model has no {name}"
            if shape != layer.weight:
                return f"{name} is {_sides(layer.weight)}, and {_sides(shape)} in that model"
        return None


def names(part: str, layer: str) -> tuple[str, str]:
    """Of the two tensors."""
    return f"{part}.{layer}{_A}", f"{part}.{layer}{_B}"


def read_untrusted(header: Mapping[str, Any]) -> Lora:
    """`header`: of a safetensors file, whose offsets hold.  NotALora."""
    shapes = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            shapes[name] = _shape(name, tensor)
    firsts = sorted(name for name in shapes if name.endswith(_A))
    parts = {name.partition(".")[0] for name in shapes}
    if len(parts) != 1 or not parts <= set(PARTS):
        said = ", ".join(sorted(parts)[:4]) or "nothing"
        raise NotALora(f"changes {said[:100]}; only the denoiser, {' or '.join(PARTS)}, may be changed")
    (part,) = parts
    if not 1 <= len(firsts) <= MAX_LAYERS or len(shapes) != 2 * len(firsts):
        raise NotALora(f"does not consist of 1 to {MAX_LAYERS} pairs of tensors named ...{_A} and ...{_B}")
    layers = {}
    for first in firsts:
        name = first.removesuffix(_A)
        a, b = shapes[first], shapes.get(name + _B)
        if b is None:
            raise NotALora(f"has {first} without its {_B[1:]}")
        pair = len(a) == len(b) in (2, 4) and a[0] == b[1] and all(side == 1 for side in b[2:])
        if not pair or not math.prod(a) * math.prod(b):
            raise NotALora(f"has {_sides(a)} and {_sides(b)} for {name}, which are no low-rank change")
        layers[name.removeprefix(f"{part}.")] = Layer((b[0], *a[1:]), a[0])
    return Lora(part, layers, _alpha(header.get("__metadata__") or {}, part))


def _shape(name: str, tensor: Any) -> Shape:
    match tensor:
        case {"dtype": str(dtype), "shape": [*sides]} if all(
            type(side) is int and side >= 0 for side in sides
        ):
            if dtype in DTYPES and len(name) <= MAX_NAME_CHARS and name.isascii() and name.isprintable():
                return tuple(sides)
    raise NotALora(f"has a tensor {name!r:.80} that is none of floating point numbers")


def _alpha(metadata: Any, part: str) -> float | None:
    if not isinstance(metadata, dict) or _METADATA not in metadata:
        return None
    try:
        said = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError, TypeError):
        said = None
    if not isinstance(said, dict):
        raise NotALora(f"has a {_METADATA} that cannot be read")
    for name in _NOT_APPLIED:
        if said.get(f"{part}.{name}"):
            raise NotALora(f"was trained with {name}, which is not applied here")
    alpha = said.get(f"{part}.lora_alpha")
    if alpha is None:
        return None
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= MAX_ALPHA:
        raise NotALora(f"has a lora_alpha that is no number up to {MAX_ALPHA}")
    return float(alpha)


def _sides(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a number"
