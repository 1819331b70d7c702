"""Emulates a device of another speed, for testnets only: the real renderer, held back at every step.

NEARLIGHT_PACE names a JSON file: `step_us` is how long a step takes at least, `told_step_us` what a lying peer says it
took (null: the truth), `memory_mib` how much memory the device has at most (null: what there is).  The file may change
while the peer runs.  Where it is set, the device's name in the advert and the environment in every receipt say "paced".
"""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.wire.advert import Device

VARIABLE = "NEARLIGHT_PACE"
LABEL = "paced"


@dataclass(frozen=True)
class Pace:
    step_us: int
    told_step_us: int | None = None
    memory_mib: int | None = None

    def hold(self, began_us: int) -> int | None:
        """Returns when the step that began at `began_us`, monotonic, has lasted long enough; what to tell of it."""
        left_us = began_us + self.step_us - time.monotonic_ns() // 1000
        if left_us > 0:
            time.sleep(left_us / 1e6)
        return self.told_step_us

    def limited_mib(self, mib: int | None) -> int | None:
        return mib if mib is None or self.memory_mib is None else min(mib, self.memory_mib)


def current() -> Pace | None:
    """None, everywhere but in a testnet."""
    path = os.environ.get(VARIABLE)
    return None if path is None else Pace(**json.loads(Path(path).read_text()))


def labelled(device: Device) -> Device:
    """The device as the advert has it."""
    pace = current()
    if pace is None:
        return device
    return replace(
        device,
        name=f"{LABEL} {device.name}"[:64],
        memory_mib=pace.limited_mib(device.memory_mib),
        free_memory_mib=pace.limited_mib(device.free_memory_mib),
    )
