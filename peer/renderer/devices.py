"""What this machine can render on: NVIDIA devices from NVML, the CPU from psutil.  Unknown stays None; no torch."""

import importlib
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from protocol.wire.advert import MAX_DEVICES, MEMORY_BUCKET_MIB, Device

from . import pace

BF16_COMPUTE_CAPABILITY = (8, 0)  # CUDA C++ Programming Guide, "Compute Capabilities": bfloat16 from 8.0
MIB = 1 << 20
MAX_NAME_CHARACTERS = 64


def detect() -> tuple[Device, ...]:
    """The devices of this machine, the quickest kind first; the CPU is always the last one."""
    found = (*nvidia_devices(_nvml(), os.environ)[: MAX_DEVICES - 1], cpu_device())
    return tuple(pace.labelled(device) for device in found)


def dtypes(kind: str, compute_capability: tuple[int, int] | None) -> tuple[str, ...]:
    """The precisions that a device of this kind renders in: of a CUDA device of unknown age, what all of them do."""
    if kind != "cuda":
        return ("fp32",)
    if compute_capability is not None and compute_capability >= BF16_COMPUTE_CAPABILITY:
        return ("fp32", "fp16", "bf16")
    return ("fp32", "fp16")


def nvidia_devices(nvml: Any | None, environment: Mapping[str, str]) -> list[Device]:
    """Equal devices are one entry with their count; the least free memory among them is theirs.

    `nvml` is the module pynvml, or None.  Raises nothing of NVML's: what a driver does not say is None.
    """
    if nvml is None:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []  # no driver
    try:
        found: dict[tuple[str, int | None, tuple[int, int] | None], list[int | None]] = {}
        for index in range(_ask(nvml, nvml.nvmlDeviceGetCount) or 0):
            handle = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None or not _visible(index, _ask(nvml, nvml.nvmlDeviceGetUUID, handle), environment):
                continue
            memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
            capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
            key = (
                _text(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "NVIDIA device",
                None if memory is None else int(memory.total) // MIB,
                None if capability is None else (int(capability[0]), int(capability[1])),
            )
            found.setdefault(key, []).append(None if memory is None else int(memory.free) // MIB)
    finally:
        _ask(nvml, nvml.nvmlShutdown)
    return [
        Device("cuda", name, len(free), memory_mib, _least(free), capability, dtypes("cuda", capability))
        for (name, memory_mib, capability), free in found.items()
    ]


def cpu_device(cpuinfo: str | None = None, memory: Any | None = None) -> Device:
    """The CPU with the memory that programs share.  The arguments stand in for this machine's in tests."""
    memory = psutil.virtual_memory() if memory is None else memory
    name = _cpu_name(_cpuinfo() if cpuinfo is None else cpuinfo)
    total_mib, free_mib = int(memory.total) // MIB, _bucket(int(memory.available) // MIB)
    return Device("cpu", name, 1, total_mib, free_mib, None, dtypes("cpu", None))


def total_memory_bytes() -> int:
    """The memory that the programs of this machine share."""
    return int(psutil.virtual_memory().total)


def _nvml() -> Any | None:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def _ask(nvml: Any, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None  # not supported, no permission, device lost: not known


def _visible(index: int, uuid: Any, environment: Mapping[str, str]) -> bool:
    """CUDA_VISIBLE_DEVICES, with indices in NVML's order (the renderer runs with CUDA_DEVICE_ORDER=PCI_BUS_ID)."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return True
    name = _text(uuid)
    for item in (part.strip() for part in listed.split(",")):
        if item == str(index) or (item.startswith("GPU-") and name is not None and name.startswith(item)):
            return True
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", item):
            return False  # CUDA sees nothing from the first entry on that it cannot read
    return False


def _text(value: Any) -> str | None:
    if value is None:
        return None
    # Older bindings give bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _least(free_mib: list[int | None]) -> int | None:
    known = [value for value in free_mib if value is not None]
    return _bucket(min(known)) if len(known) == len(free_mib) else None


def _bucket(mib: int) -> int:
    return mib // MEMORY_BUCKET_MIB * MEMORY_BUCKET_MIB


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""  # not Linux


def _cpu_name(cpuinfo: str) -> str:
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    name = named[1].strip() if named else platform.processor() or platform.machine() or "CPU"
    return " ".join(name.split())[:MAX_NAME_CHARACTERS]
