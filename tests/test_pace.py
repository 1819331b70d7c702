"""A renderer's pace is emulated in testnets only, and whoever sees such a peer is told."""

import json
import time
from pathlib import Path

import pytest

from peer.renderer import __main__ as renderer
from peer.renderer import pace
from peer.renderer.devices import cpu_device, detect


def paced(monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: object) -> Path:
    path = folder / "pace.json"
    path.write_text(json.dumps({"step_us": 30_000, **settings}))
    monkeypatch.setenv(pace.VARIABLE, str(path))
    return path


def test_without_the_variable_nothing_is_held_back_or_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pace.VARIABLE, raising=False)
    assert pace.current() is None
    assert pace.LABEL not in renderer.environment()
    assert pace.labelled(cpu_device()) == cpu_device()


def test_a_step_lasts_as_long_as_is_stated_and_a_liar_tells_another_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = paced(monkeypatch, tmp_path)
    began_us = time.monotonic_ns() // 1000
    current = pace.current()
    assert current is not None
    assert current.hold(began_us) is None
    assert time.monotonic_ns() // 1000 >= began_us + 30_000
    path.write_text(json.dumps({"step_us": 1, "told_step_us": 7}))  # while it runs
    changed = pace.current()
    assert changed is not None
    assert changed.hold(began_us) == 7


def test_it_is_labelled_wherever_others_see_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paced(monkeypatch, tmp_path, memory_mib=512)
    assert " paced;" in renderer.environment()
    for device in detect():
        assert device.name.startswith("paced ")
        assert len(device.name) <= 64
        assert device.memory_mib is None or device.memory_mib <= 512
        assert device.free_memory_mib is None or device.free_memory_mib <= 512
