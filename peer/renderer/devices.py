"""The devices of this machine, without loading torch: what is not known stays unknown (None)."""

import platform
from pathlib import Path
from typing import Any

import psutil
import pynvml

from protocol.wire.advert import MEMORY_BUCKET_MIB, Device
from protocol.wire.fields import plain

_MIB = 1 << 20
_BF16_CAPABILITY = (8, 0)  # Ampere: the first with bf16 (CUDA C programming guide, compute capabilities)


def detect(nvml: Any = pynvml) -> tuple[Device, ...]:
    """CUDA devices by NVML, grouped by what they are, then the CPU."""
    return (*_cuda(nvml), _cpu())


def _cuda(nvml: Any) -> list[Device]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []  # no driver, no device
    try:
        found = [_one(nvml, nvml.nvmlDeviceGetHandleByIndex(index)) for index in range(nvml.nvmlDeviceGetCount())]
    finally:
        nvml.nvmlShutdown()
    groups: dict[tuple[Any, ...], list[Device]] = {}
    for device in found:
        groups.setdefault((device.name, device.memory_mib, device.compute_capability), []).append(device)
    return [_grouped(group) for group in groups.values()]


def _one(nvml: Any, handle: Any) -> Device:
    name = _asked(nvml, lambda: nvml.nvmlDeviceGetName(handle))
    memory = _asked(nvml, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    capability = _asked(nvml, lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)))
    bf16 = ("bf16",) if capability is not None and capability >= _BF16_CAPABILITY else ()
    return Device(
        kind="cuda",
        name=plain(name.decode() if isinstance(name, bytes) else name or "unknown"),
        count=1,
        memory_mib=memory.total // _MIB if memory else None,
        free_memory_mib=_bucket(memory.free // _MIB) if memory else None,
        compute_capability=capability,
        dtypes=("fp32", "fp16", *bf16),
    )


def _asked(nvml: Any, ask: Any) -> Any:
    """What the driver answers; None where it does not know."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _grouped(devices: list[Device]) -> Device:
    first = devices[0]
    free = [device.free_memory_mib for device in devices if device.free_memory_mib is not None]
    return Device(
        kind=first.kind,
        name=first.name,
        count=len(devices),
        memory_mib=first.memory_mib,
        free_memory_mib=min(free) if free else None,
        compute_capability=first.compute_capability,
        dtypes=first.dtypes,
    )


def _cpu() -> Device:
    memory = psutil.virtual_memory()
    return Device(
        kind="cpu",
        name=plain(_cpu_name()),
        count=1,
        memory_mib=memory.total // _MIB,
        free_memory_mib=_bucket(memory.available // _MIB),
        compute_capability=None,
        dtypes=("fp32",),
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown"


def _bucket(mib: int) -> int:
    return mib - mib % MEMORY_BUCKET_MIB
