"""Applies adapters (LoRA) to a resident model: a second set of the weights that they change, beside the model's own.

The two sets change places as pictures ask for it: no picture shows what was drawn before it, and a step takes no longer
with adapters than without.  One second set is kept, that of the adapters used last.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from protocol.wire.manifest import FileHasher

from .lora import Lora, NotALora, names, read_untrusted
from .messages import RenderFailed, unsupported

Wanted = tuple[tuple[bytes, int], ...]  # id, weight in millionths: as a statement has it


@dataclass(frozen=True)
class AdapterFile:
    """Where the peer found its weights, and the root of the bytes that they then had."""

    weights: Path
    root: bytes

    def read(self) -> tuple[Lora, dict[str, torch.Tensor]]:
        """RenderFailed where it is no longer what the peer found."""
        try:
            data = self.weights.read_bytes()
        except OSError as exc:
            raise _failed(f"cannot be read: {exc.strerror}") from exc
        hasher = FileHasher()
        hasher.update(data)
        if hasher.root() != self.root:
            raise _failed("changed since this peer started: start it again")
        try:
            lora = read_untrusted(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))
            return lora, safetensors.torch.load(data)
        except (safetensors.SafetensorError, NotALora, ValueError) as exc:
            raise _failed(f"cannot be applied: {exc}") from exc


class Adapted:
    """The denoiser of a pipeline, its `part`, with and without adapters."""

    def __init__(self, denoiser: torch.nn.Module, part: str) -> None:
        self._part = part
        self._weights = dict(denoiser.named_parameters())
        self._own: dict[str, torch.Tensor] = {}  # the model's, while others are in their place
        self._made: dict[str, torch.Tensor] = {}
        self._made_of: Wanted = ()

    def use(self, wanted: Wanted, files: Mapping[bytes, AdapterFile]) -> bool:
        """From now on the weights are those with these adapters: whether they had to be made.  RenderFailed."""
        if self._own and wanted == self._made_of:
            return False
        self._take_own()
        if not wanted:
            return False
        fresh = wanted != self._made_of
        if fresh:
            self.forget()
            self._made = self._make(wanted, files)
            self._made_of = wanted
        for name, changed in self._made.items():
            self._own[name], self._weights[name].data = self._weights[name].data, changed
        return fresh

    def forget(self) -> None:
        """Gives the memory of the second set back; the model's own is used."""
        self._take_own()
        self._made, self._made_of = {}, ()

    def _take_own(self) -> None:
        for name, own in self._own.items():
            self._weights[name].data = own
        self._own = {}

    @torch.no_grad()
    def _make(self, wanted: Wanted, files: Mapping[bytes, AdapterFile]) -> dict[str, torch.Tensor]:
        """As protocol/README.md, section 8 says: sums in fp32, in the order of the statement, rounded once."""
        shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}
        made: dict[str, torch.Tensor] = {}
        for adapter, millionths in wanted:
            if adapter not in files:
                raise unsupported(f"This renderer was not given the adapter {adapter.hex()[:8]}.")
            lora, tensors = files[adapter].read()
            if (why := lora.why_not(self._part, shapes)) is not None:
                raise _failed(f"does not fit: {why}")
            for layer in lora.layers:
                name = f"{layer}.weight"
                device = self._weights[name].device
                a, b = (
                    tensors[each].to(device, torch.float32).flatten(1) for each in names(self._part, layer)
                )
                scale = millionths / 1_000_000 * lora.scale(layer)
                before = made.get(name, self._weights[name]).to(torch.float32)
                made[name] = torch.addmm(before.flatten(1), b, a, alpha=scale).view(before.shape)
        return {name: weight.to(self._weights[name].dtype) for name, weight in made.items()}


def _failed(why: str) -> RenderFailed:
    return RenderFailed("load_failed", f"The file of an adapter {why}.")
