"""Worlds whose distances are known exactly, to judge round-trip estimates and selection in.

A matrix m gives the true round trip m[a][b] in us between peers a and b: symmetric, zero on the diagonal.
"""

import math
import random
from collections.abc import Callable

from protocol.policy.prediction import Candidate, Prediction
from protocol.policy.rtt import Rtt
from protocol.wire.advert import Advert, Device, Limits, OfferedModel, Speed
from protocol.wire.hello import LiveState
from protocol.wire.statement import Statement

Matrix = list[list[int]]
MODEL = b"m" * 32
OTHER_MODEL = b"o" * 32


def line(size: int = 16, spacing_us: int = 10_000) -> Matrix:
    """On a line, at equal distances."""
    return _between([(index * spacing_us, 0.0) for index in range(size)])


def grid(size: int = 16, spacing_us: int = 10_000) -> Matrix:
    """On a square grid."""
    side = math.isqrt(size)
    return _between(
        [(column * spacing_us, row * spacing_us) for row in range(side) for column in range(side)]
    )


def split(size: int = 16, near_us: int = 2_000, far_us: int = 150_000) -> Matrix:
    """Two lines of close peers with an ocean between them."""
    half = size // 2
    return _between([(index % half * near_us, index // half * far_us) for index in range(size)])


def circle(size: int = 16, around_us: int = 200_000) -> Matrix:
    """Around the earth: the way over the middle is closed."""
    steps = [min(index, size - index) * around_us // size for index in range(size)]
    return [[steps[(b - a) % size] for b in range(size)] for a in range(size)]


def scattered(size: int = 16, across_us: int = 200_000, seed: int = 1) -> Matrix:
    """Anywhere on a square, each behind an access line of its own."""
    dice = random.Random(seed)
    points = [(dice.random() * across_us, dice.random() * across_us) for _ in range(size)]
    access = [dice.randrange(500, 10_000) for _ in range(size)]
    plane = _between(points)
    return [[0 if a == b else plane[a][b] + access[a] + access[b] for b in range(size)] for a in range(size)]


WORLDS: dict[str, Callable[[], Matrix]] = {
    "line": line,
    "grid": grid,
    "split": split,
    "circle": circle,
    "random": scattered,
}


def _between(points: list[tuple[float, float]]) -> Matrix:
    return [[round(math.dist(here, there)) for there in points] for here in points]


def statement(**changes) -> Statement:
    fields = {
        "model": MODEL,
        "prompt": "a gold spiral on navy",
        "width": 128,
        "height": 128,
        "steps": 20,
        "guidance_millionths": 3_000_000,
        "sampler": "euler",
        "seed": 7,
        "salt": bytes(16),
        "precision": "fp32",
    }
    return Statement(**{**fields, **changes})


def offered(
    state: str = "resident", step_us: int | None = 40_000, model: bytes = MODEL, load_us=None
) -> OfferedModel:
    speeds = () if step_us is None else (Speed(128, 128, "fp32", step_us, 50_000),)
    return OfferedModel(model, "reference", "sd", state, (128, 128), load_us, speeds)


def advert(**changes) -> Advert:
    fields = {
        "name": "a provider",
        "boot_epoch": 1,
        "sequence": 1,
        "issued_us": 0,
        "lifetime_s": 180,
        "addresses": (),
        "kinds": ("txt2img",),
        "devices": (Device("cpu", "a CPU", 1, None, None, None, ("fp32",)),),
        "models": (offered(),),
        "limits": Limits(pixels=1024 * 1024, steps=100, prompt_bytes=2000, queue=8),
    }
    return Advert(**{**fields, **changes})


def live(wait_us: int = 0, resident: tuple[bytes, ...] = (MODEL,)) -> LiveState:
    return LiveState(wait_us, int(wait_us > 0), 0, None, resident)


def candidate(peer: str = "near", rtt_us: int | None = 20_000, **changes) -> Candidate:
    """Idle, connected, with resident weights, unless `changes` say otherwise."""
    fields = {
        "peer": peer,
        "advert": advert(),
        "rtt": None if rtt_us is None else Rtt(rtt_us, 0, 8),
        "state": live(),
        "state_age_us": 0,
        "connected": True,
    }
    fields = {**fields, **changes}
    return Candidate(**{"silent_us": fields["state_age_us"], **fields})


def prediction(**us):
    """Of the given spans, us; the others take no time."""
    spans = dict.fromkeys(
        ("dial_us", "offer_us", "wait_us", "load_us", "fixed_us", "step_us", "transfer_us"), 0
    )
    spans |= {"apply_us": None, "steps": 1} | us
    busy_us = (
        spans["load_us"] + (spans["apply_us"] or 0) + spans["fixed_us"] + spans["steps"] * spans["step_us"]
    )
    total_us = sum(spans[name] for name in ("dial_us", "offer_us", "wait_us", "transfer_us")) + busy_us
    return Prediction(**spans, total_us=total_us, busy_us=busy_us, uncertain_us=0, spread_us=0, margin_us=0)
