"""What is made of the answers of NVML, and of those that are missing.

No machine with a GPU gave these answers: they are typical ones, written by hand from what is published about such
devices, and `Nvml` stands in for the module.  The CPU's test at the end is of the machine that runs it.
"""

from types import SimpleNamespace

import pytest

from peer.renderer.devices import cpu_device, detect, nvidia_devices

GIB = 1 << 30

# What NVML may say of such devices, not recordings: name, total and free bytes, compute capability, UUID.
H100 = (
    "NVIDIA H100 80GB HBM3",
    (85520809984, 84929937408),
    (9, 0),
    "GPU-6d1b2c3e-0000-0000-0000-000000000001",
)
RTX_4090 = (
    "NVIDIA GeForce RTX 4090",
    (25757220864, 25014239232),
    (8, 9),
    "GPU-11111111-0000-0000-0000-000000000000",
)
BUSY_4090 = (
    "NVIDIA GeForce RTX 4090",
    (25757220864, 3 * GIB),
    (8, 9),
    "GPU-22222222-0000-0000-0000-000000000000",
)
GTX_1080 = (b"GeForce GTX 1080", (8589934592, 8 * GIB), (6, 1), b"GPU-33333333-0000-0000-0000-000000000000")
GB10 = (
    "NVIDIA GB10",
    None,
    (12, 1),
    "GPU-44444444-0000-0000-0000-000000000000",
)  # shared memory: not supported
MUTE = (None, None, None, None)


class Nvml:
    """The module pynvml of a machine with these devices; None is an answer that the driver does not give."""

    class NVMLError(Exception):
        pass

    def __init__(self, *devices, driver=True):
        self.devices = devices
        self.driver = driver
        self.open = 0

    def _answer(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self):
        self._answer(self.driver or None)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.devices[index]

    def nvmlDeviceGetName(self, handle):
        return self._answer(handle[0])

    def nvmlDeviceGetMemoryInfo(self, handle):
        total, free = self._answer(handle[1])
        return SimpleNamespace(total=total, free=free, used=total - free)

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return self._answer(handle[2])

    def nvmlDeviceGetUUID(self, handle):
        return self._answer(handle[3])


def test_an_h100():
    nvml = Nvml(H100)
    (device,) = nvidia_devices(nvml, {})
    assert (device.kind, device.name, device.count) == ("cuda", "NVIDIA H100 80GB HBM3", 1)
    assert device.memory_mib == 81559
    assert device.free_memory_mib == 80896  # 80,995 MiB in buckets of 256
    assert device.compute_capability == (9, 0)
    assert device.dtypes == ("fp32", "fp16", "bf16")
    assert nvml.open == 0


def test_equal_devices_are_one_entry_with_the_least_free_memory():
    (device,) = nvidia_devices(Nvml(RTX_4090, BUSY_4090), {})
    assert (device.count, device.free_memory_mib) == (2, 3072)


def test_different_devices_are_told_apart_and_an_old_one_has_no_bf16():
    new, old = nvidia_devices(Nvml(RTX_4090, GTX_1080), {})
    assert new.dtypes == ("fp32", "fp16", "bf16")
    assert (old.name, old.dtypes) == ("GeForce GTX 1080", ("fp32", "fp16"))


def test_memory_that_the_driver_does_not_tell_is_unknown():
    (device,) = nvidia_devices(Nvml(GB10), {})
    assert (device.memory_mib, device.free_memory_mib) == (None, None)
    assert device.compute_capability == (12, 1)


def test_a_driver_that_tells_nothing_leaves_everything_unknown():
    (device,) = nvidia_devices(Nvml(MUTE), {})
    assert (device.memory_mib, device.free_memory_mib, device.compute_capability) == (None, None, None)
    assert device.dtypes == ("fp32", "fp16")


def test_without_driver_or_bindings_there_are_none():
    assert nvidia_devices(Nvml(driver=False), {}) == []
    assert nvidia_devices(None, {}) == []


@pytest.mark.parametrize(
    ("listed", "count"),
    [("0", 1), ("0,1", 2), ("", 0), ("-1", 0), ("1,-1,0", 1), ("GPU-2222", 1), ("MIG-1", 0), ("7", 0)],
)
def test_cuda_visible_devices_is_honoured(listed, count):
    devices = nvidia_devices(Nvml(RTX_4090, BUSY_4090), {"CUDA_VISIBLE_DEVICES": listed})
    assert sum(device.count for device in devices) == count


def test_a_cpu():
    memory = SimpleNamespace(total=16 * GIB, available=9 * GIB + (5 << 20))
    device = cpu_device("processor\t: 0\nmodel name\t: AMD Ryzen 7  7840U\nflags: fpu\n", memory)
    assert (device.kind, device.name, device.count) == ("cpu", "AMD Ryzen 7 7840U", 1)
    assert (device.memory_mib, device.free_memory_mib) == (16384, 9216)
    assert (device.compute_capability, device.dtypes) == (None, ("fp32",))


def test_a_cpu_without_a_name_still_has_one():
    assert cpu_device("flags: fpu\n").name


def test_this_machine_has_a_cpu_that_an_advert_can_carry():
    from protocol.wire.advert import Device
    from protocol.wire.fields import Fields

    cpu = detect()[-1]
    assert cpu.kind == "cpu"
    assert Device.from_fields(Fields(cpu.to_value(), "device")) == cpu
